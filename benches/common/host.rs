//! A host process of a given size, which launches on demand: one answer for each line that it reads.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use super::Result;

/// The host's end, in a process of its own: touches so many MiB, then answers line by line, with nanoseconds or a word why not.
pub fn serve(
    mebibytes: usize,
    lines: impl std::io::BufRead,
    mut answers: File,
    mut launch: impl FnMut(&str) -> Result<Duration>,
) -> Result<()> {
    let mut ballast = vec![0u8; mebibytes << 20];
    for page in ballast.chunks_mut(4096) {
        if let Some(byte) = page.first_mut() {
            *byte = 1;
        }
    }
    for line in lines.lines() {
        match launch(line?.trim()) {
            Ok(time) => writeln!(answers, "{}", time.as_nanos())?,
            Err(error) => writeln!(answers, "error {}", error.to_string().replace('\n', " "))?,
        }
    }
    std::hint::black_box(&ballast);
    Ok(())
}

/// The bench's end.
pub struct Host {
    process: Child,
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Host {
    pub fn start(command: &mut Command) -> Result<Self> {
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let questions = process.stdin.take();
        let answers = BufReader::new(process.stdout.take().ok_or("no stdout")?);
        Ok(Self { process, questions, answers })
    }

    pub fn launch(&mut self, line: &str) -> Result<Duration> {
        writeln!(self.questions.as_mut().ok_or("no stdin")?, "{line}")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        match answer.trim() {
            "" => Err("the host process has ended".into()),
            answer => match answer.strip_prefix("error ") {
                Some(error) => Err(error.into()),
                None => Ok(Duration::from_nanos(answer.parse()?)),
            },
        }
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.questions.take());
        let _ = self.process.wait();
    }
}
