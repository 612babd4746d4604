//! As much of the crate's own as filters use.

#[derive(Debug)]
#[allow(dead_code)] // printed
pub enum Error {
    Invalid { setting: &'static str, reason: String },
}

impl Error {
    pub fn invalid(setting: &'static str, reason: impl Into<String>) -> Self {
        Self::Invalid { setting, reason: reason.into() }
    }
}
