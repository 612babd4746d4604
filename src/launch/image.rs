//! The stage's image in memory, from which it is started; and sealed memory for what is handed to it.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use memfd::{FileSeal, MemfdOptions};
use rustix::fs::{MemfdFlags, OFlags, SealFlags, fcntl_add_seals, memfd_create};

use crate::error::Error;
use crate::support;

/// The freestanding program, compiled by build.rs.
static STAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/stage"));

/// The stage, ready to be executed: sealed memory, which nobody can change.
#[derive(Debug)]
pub(crate) struct Image {
    file: File,
    sealed: bool,
}

impl Image {
    /// One for the whole process, for as long as somebody holds it: no descriptor outlives the last policy.
    pub(crate) fn shared() -> Result<Arc<Image>, Error> {
        static SHARED: Mutex<Weak<Image>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(image) = shared.upgrade() {
            return Ok(image);
        }
        let image = Arc::new(Self::make()?);
        *shared = Arc::downgrade(&image);
        Ok(image)
    }

    fn make() -> Result<Image, Error> {
        match Self::in_memory() {
            Ok(file) => Ok(Image { file, sealed: true }),
            // The sysctl vm.memfd_noexec.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let file = Self::in_file().map_err(|_| support::diagnose_start(error))?;
                Ok(Image { file, sealed: false })
            }
            Err(error) => Err(Error::host("make sealed memory for the stage")(error)),
        }
    }

    fn in_memory() -> io::Result<File> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = match memfd_create(c"stockade", flags | MemfdFlags::EXEC) {
            // Before Linux 6.3 there is no such flag, and every memfd can be executed.
            Err(rustix::io::Errno::INVAL) => memfd_create(c"stockade", flags)?,
            memory => memory?,
        };
        let mut file = File::from(memory);
        file.write_all(STAGE)?;
        fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        // What is open for writing cannot be executed.
        Ok(above_streams(File::open(super::descriptor_path(&file))?.into())?.into())
    }

    /// A file without a name, which only root could open again for writing; it is compared before each use.
    fn in_file() -> io::Result<File> {
        let mut tried = io::Error::from(io::ErrorKind::NotFound);
        for directory in [std::env::temp_dir(), PathBuf::from("/dev/shm"), PathBuf::from("/var/tmp")] {
            let made = File::options()
                .read(true)
                .write(true)
                .mode(0o500)
                .custom_flags(OFlags::TMPFILE.bits().cast_signed())
                .open(directory)
                .and_then(|mut file| file.write_all(STAGE).map(|()| file))
                .and_then(|file| File::open(super::descriptor_path(&file)));
            match made {
                Ok(file)
                    if rustix::fs::fstatvfs(&file)
                        .is_ok_and(|fs| !fs.f_flag.contains(rustix::fs::StatVfsMountFlags::NOEXEC)) =>
                {
                    return Ok(file);
                }
                Ok(_) => {}
                Err(error) => tried = error,
            }
        }
        Err(tried)
    }

    /// Where to execute it from.
    pub(crate) fn path(&self) -> Result<PathBuf, Error> {
        if !self.sealed {
            let mut found = vec![0; STAGE.len() + 1];
            let len = self.file.read_at(&mut found, 0).map_err(Error::host("read the stage"))?;
            if found.get(..len) != Some(STAGE) {
                let changed = io::Error::new(io::ErrorKind::InvalidData, "somebody has changed the stage's file");
                return Err(Error::host("verify the stage")(changed));
            }
        }
        Ok(super::descriptor_path(&self.file))
    }
}

/// Out of the way of the streams, 0 to 2, which a host may have closed: what has such a number could be taken for one.
pub(crate) fn above_streams(fd: OwnedFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() > 2 { Ok(fd) } else { Ok(rustix::io::fcntl_dupfd_cloexec(&fd, 3)?) }
}

/// Memory of a fixed size that host and agent both write to.
pub(crate) fn scratch(name: &std::ffi::CStr, len: u64) -> Result<File, Error> {
    let memory = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING);
    let file = File::from(memory.map_err(Error::host("make shared memory"))?);
    file.set_len(len).map_err(Error::host("make shared memory"))?;
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
        .map_err(Error::host("make shared memory"))?;
    Ok(file)
}

/// A descriptor that can be neither read nor written, and leads to nothing (`O_PATH`).
pub(crate) fn empty_file() -> io::Result<OwnedFd> {
    let memory = memfd_create(c"stockade-empty", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    fcntl_add_seals(&memory, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    let path = super::descriptor_path(&memory);
    Ok(rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, rustix::fs::Mode::empty())?)
}

/// Bytes that nobody can change any more, to be mapped by the stage.
#[derive(Debug)]
pub(crate) struct Sealed {
    file: File,
    len: u64,
}

impl Sealed {
    pub(crate) fn new(name: &std::ffi::CStr, bytes: &[u8]) -> Result<Self, Error> {
        let options = MemfdOptions::new().allow_sealing(true).close_on_exec(true);
        let failed = |error: memfd::Error| match error {
            memfd::Error::Create(error) | memfd::Error::AddSeals(error) | memfd::Error::GetSeals(error) => {
                Error::host("make sealed memory")(error)
            }
        };
        let memory = options.create(name.to_string_lossy()).map_err(failed)?;
        memory.as_file().write_all_at(bytes, 0).map_err(Error::host("fill sealed memory"))?;
        memory
            .add_seals(&[FileSeal::SealWrite, FileSeal::SealShrink, FileSeal::SealGrow, FileSeal::SealSeal])
            .map_err(failed)?;
        let file = above_streams(memory.into_file().into()).map_err(Error::host("make sealed memory"))?;
        Ok(Self { file: file.into(), len: bytes.len() as u64 })
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    #[cfg(fuzzing)]
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.len).unwrap_or(0)];
        let read = self.file.read_exact_at(&mut bytes, 0);
        assert!(read.is_ok(), "sealed memory can be read");
        bytes
    }
}

impl AsFd for Sealed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
