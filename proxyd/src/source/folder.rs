//! [`Folder`]: a watched folder (inotify).

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init};
use rustix::io::Errno;

use super::SourceError;

/// How long the folder must be quiet until changes that came together are over.
const QUIET: Timespec = Timespec { tv_sec: 0, tv_nsec: 400_000 };
/// How often a folder that is gone is looked for.
const ABSENT: Duration = Duration::from_secs(1);

/// What happened.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Noticed {
    /// A file was closed after writing, renamed, or removed.
    File(String),
    /// A name appeared; its content may follow.
    Created(String),
    /// Anything may have happened.
    All,
}

/// A folder whose changes are told.
pub(super) struct Folder {
    path: PathBuf,
    inotify: OwnedFd,
    /// The folder itself was removed or replaced.
    lost: bool,
}

impl Folder {
    /// Begins to watch.
    pub(super) fn watch(path: &Path) -> Result<Folder, SourceError> {
        let mut folder = Folder {
            path: path.to_owned(),
            inotify: init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
                .map_err(|errno| failed(path, errno))?,
            lost: true,
        };
        folder.attach()?;
        Ok(folder)
    }

    fn attach(&mut self) -> Result<(), SourceError> {
        let flags = WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::CREATE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        add_watch(&self.inotify, &self.path, flags).map_err(|errno| failed(&self.path, errno))?;
        self.lost = false;
        Ok(())
    }

    /// The folder.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until something happens.
    pub(super) fn wait(&mut self) -> Result<Vec<Noticed>, SourceError> {
        while self.lost {
            std::thread::sleep(ABSENT);
            if self.attach().is_ok() {
                return Ok(vec![Noticed::All]);
            }
        }
        self.readable(None)?;
        self.take()
    }

    /// What happened besides, if it comes at once.
    pub(super) fn more(&mut self) -> Result<Option<Vec<Noticed>>, SourceError> {
        if self.lost || !self.readable(Some(&QUIET))? {
            return Ok(None);
        }
        self.take().map(Some)
    }

    fn readable(&self, timeout: Option<&Timespec>) -> Result<bool, SourceError> {
        loop {
            match poll(&mut [PollFd::new(&self.inotify, PollFlags::IN)], timeout) {
                Ok(ready) => return Ok(ready > 0),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(failed(&self.path, errno)),
            }
        }
    }

    fn take(&mut self) -> Result<Vec<Noticed>, SourceError> {
        let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        let mut noticed = Vec::new();
        let mut lost = false;
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(failed(&self.path, errno)),
            };
            let flags = event.events();
            let gone = ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::IGNORED;
            if flags.intersects(gone) {
                lost = true;
            } else if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                noticed.push(Noticed::All);
            } else if let Some(Ok(name)) = event.file_name().map(|name| name.to_str()) {
                let name = name.to_owned();
                noticed.push(match flags.contains(ReadFlags::CREATE) {
                    true => Noticed::Created(name),
                    false => Noticed::File(name),
                });
            }
        }
        if lost {
            tracing::warn!("{} was removed: what it said stays in force", self.path.display());
            self.lost = true;
        }
        Ok(noticed)
    }
}

fn failed(path: &Path, errno: Errno) -> SourceError {
    SourceError { what: format!("watch folder {}", path.display()), error: io::Error::from(errno) }
}
