//! Attachments of pods as files, so that a daemon that starts anew knows addresses that the API server does
//! not know yet.

use std::collections::HashSet;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use netpol::PodName;
use netpol::compile::Attachment;
use serde::{Deserialize, Serialize};

use crate::agent::install::write_if_changed;

#[derive(Deserialize, Serialize)]
struct Stored {
    namespace: String,
    name: String,
    uid: String,
    addresses: Vec<IpAddr>,
    #[serde(default)]
    interface: String,
}

/// The folder with a file for each attachment.
pub(super) struct Attachments(PathBuf);

impl Attachments {
    /// Attachments of a daemon that the plugin does not ask: there are none.
    pub(super) fn none() -> Attachments {
        Attachments(PathBuf::new())
    }

    pub(super) fn open(folder: &Path) -> Result<Attachments> {
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        Ok(Attachments(folder.to_owned()))
    }

    /// Everything that is there. What cannot be read is told, and left out.
    pub(super) fn read(&self) -> Vec<(Arc<str>, Attachment)> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            let Some(id) = name.to_str().filter(|name| is_name(name)) else { continue };
            let stored = fs::read(&path).map_err(anyhow::Error::from);
            match stored.and_then(|text| Ok(serde_json::from_slice::<Stored>(&text)?)) {
                Ok(stored) => all.push((id.into(), stored.into())),
                Err(error) => tracing::warn!("{}: {error:#}: passed over", path.display()),
            }
        }
        all
    }

    /// Forgets those whose link is no more: their pod ended while nobody listened. Without the list of links
    /// (`None`) nothing is known to have ended.
    pub(super) fn forget_ended(&self, links: impl FnOnce() -> Option<HashSet<String>>) -> usize {
        // A file is written once its link is there: the list must be the younger of the two.
        let all = self.read();
        let Some(links) = links() else { return 0 };
        let ended = |(_, attachment): &(_, Attachment)| {
            !attachment.interface.is_empty() && !links.contains(&*attachment.interface)
        };
        all.into_iter().filter(ended).inspect(|(id, _)| self.remove(id)).count()
    }

    pub(super) fn write(&self, id: &str, attachment: &Attachment) -> Result<()> {
        anyhow::ensure!(is_name(id), "{id:?} is no name of an attachment");
        let stored = Stored {
            namespace: attachment.pod.namespace.to_string(),
            name: attachment.pod.name.to_string(),
            uid: attachment.uid.to_string(),
            addresses: attachment.addresses.clone(),
            interface: attachment.interface.to_string(),
        };
        write_if_changed(&self.0.join(id), &serde_json::to_vec(&stored)?, 0o600).map(drop)
    }

    pub(super) fn remove(&self, id: &str) {
        if is_name(id)
            && let Err(error) = fs::remove_file(self.0.join(id))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!("remove {}: {error}", self.0.join(id).display());
        }
    }
}

/// A file's name that stays in the folder; hidden files are those that are being written.
fn is_name(id: &str) -> bool {
    !id.is_empty() && id.len() <= 255 && !id.starts_with('.') && !id.contains('/')
}

impl From<Stored> for Attachment {
    fn from(stored: Stored) -> Attachment {
        Attachment {
            pod: PodName { namespace: stored.namespace.into(), name: stored.name.into() },
            uid: stored.uid.into(),
            addresses: stored.addresses,
            interface: stored.interface.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_what_is_broken_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let attachments = Attachments::open(&folder.path().join("new")).unwrap();
        let attachment = Attachment {
            pod: PodName { namespace: "ns".into(), name: "a".into() },
            uid: "1".into(),
            addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            interface: "vd1".into(),
        };
        attachments.write("one@eth0", &attachment).unwrap();
        assert!(attachments.write("../one", &attachment).is_err());
        fs::write(folder.path().join("new/broken"), "{").unwrap();
        fs::write(folder.path().join("new/.half"), "{").unwrap();
        assert_eq!(attachments.read(), [("one@eth0".into(), attachment)]);
        let links = |name: &str| Some(HashSet::from([name.to_owned()]));
        assert_eq!(attachments.forget_ended(|| None), 0);
        assert_eq!(attachments.forget_ended(|| links("vd1")), 0);
        assert_eq!(attachments.read().len(), 1);
        assert_eq!(attachments.forget_ended(|| links("vd2")), 1);
        attachments.remove("one@eth0");
        assert_eq!(attachments.read(), []);
    }
}
