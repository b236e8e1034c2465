//! A folder of YAML and JSON files as source.
//!
//! Files count once they are whole: closed by their writer, or renamed or linked into place (as a
//! ConfigMap's are). A document that is broken leaves the last good state of its file's objects.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hashbrown::HashTable;

use super::convert::{self, Object, ObjectName};
use super::documents::{self, Parsed};
use super::folder::{Folder, Noticed};
use super::problem::{Place, Problem};
use super::{Source, SourceError, Update};
use crate::cluster::{Change, Names};

/// The source `--manifests DIR`.
pub struct Manifests {
    folder: Folder,
    files: BTreeMap<Arc<str>, FileState>,
    /// Where every object is, found by the hash of its name: of several files the first by name counts.
    places: HashTable<At>,
    hashes: RandomState,
    /// Files with problems.
    faulty: BTreeSet<String>,
    names: Names,
    /// Files read since names that nobody uses were forgotten.
    read: usize,
    /// Ranges of each ServiceCIDR object; a change tells them all.
    service_cidrs: BTreeMap<ObjectName, Vec<netlink::Prefix>>,
}

/// One of the objects of a file.
struct At {
    file: Arc<str>,
    number: u32,
}

impl At {
    fn name<'a>(&self, files: &'a BTreeMap<Arc<str>, FileState>) -> Option<&'a ObjectName> {
        Some(&files.get(&self.file)?.objects.get(self.number as usize)?.0)
    }
}

/// What a file said when it was read last. There may be very many objects.
#[derive(Default)]
struct FileState {
    /// In the order of their names, with their lines.
    objects: Box<[(ObjectName, usize)]>,
    problems: Vec<Problem>,
}

impl FileState {
    fn has(&self, object: &ObjectName) -> bool {
        self.objects.binary_search_by(|(name, _)| name.cmp(object)).is_ok()
    }
}

/// What a file says, as far as it was read.
#[derive(Default)]
struct Reading {
    objects: BTreeMap<ObjectName, usize>,
    problems: Vec<Problem>,
}

/// What follows from reading a file.
#[derive(Default)]
struct Outcome {
    changes: Vec<Change>,
    /// Files that hold other versions of what this one holds, or held: they are read again.
    again: BTreeSet<String>,
}

/// Whether a name is one of a file that is read.
fn is_manifest(name: &str) -> bool {
    !name.starts_with('.')
        && [".yaml", ".yml", ".json"].iter().any(|extension| name.ends_with(extension))
}

impl Manifests {
    /// Begins to watch a folder.
    pub fn open(path: &Path) -> Result<Manifests, SourceError> {
        Ok(Manifests {
            folder: Folder::watch(path)?,
            files: BTreeMap::new(),
            places: HashTable::new(),
            hashes: RandomState::new(),
            faulty: BTreeSet::new(),
            names: Names::default(),
            read: 0,
            service_cidrs: BTreeMap::new(),
        })
    }

    fn present(&self) -> Result<BTreeSet<String>, SourceError> {
        let path = self.folder.path();
        let failed = |error| SourceError { what: format!("list {}", path.display()), error };
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(path).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            names.extend(name.into_string().ok().filter(|name| is_manifest(name)));
        }
        Ok(names)
    }

    /// Reads all files that are there, and forgets those that are not.
    fn read_all(&mut self) -> Result<Update, SourceError> {
        let present = self.present()?;
        let gone = self.files.keys().filter(|name| !present.contains(&***name));
        let mut pending: BTreeSet<String> = gone.map(ToString::to_string).collect();
        pending.extend(present);
        Ok(self.read_files(pending))
    }

    fn read_files(&mut self, mut pending: BTreeSet<String>) -> Update {
        let mut changes = Vec::new();
        while let Some(name) = pending.pop_first() {
            let outcome = self.read_file(&name);
            changes.extend(outcome.changes);
            pending.extend(outcome.again);
        }
        if changes.iter().any(|change| matches!(change, Change::ServiceCidrs(_))) {
            changes.retain(|change| !matches!(change, Change::ServiceCidrs(_)));
            let mut all: Vec<_> = self.service_cidrs.values().flatten().copied().collect();
            all.sort();
            all.dedup();
            changes.push(Change::ServiceCidrs(all));
        }
        if self.read > self.files.len() {
            self.names.shrink();
            self.read = 0;
        }
        let faulty = self.faulty.iter().filter_map(|name| self.files.get(&**name));
        let problems = faulty.flat_map(|file| file.problems.iter().cloned()).collect();
        Update { changes, problems: Some(problems), policies_complete: true }
    }

    /// Remembers what a file says now.
    fn keep(&mut self, name: &str, said: Reading) {
        if said.problems.is_empty() {
            self.faulty.remove(name);
        } else {
            self.faulty.insert(name.to_owned());
        }
        let state =
            FileState { objects: said.objects.into_iter().collect(), problems: said.problems };
        let hashes: Vec<u64> =
            state.objects.iter().map(|(object, _)| self.hashes.hash_one(object)).collect();
        let file: Arc<str> = name.into();
        self.files.insert(Arc::clone(&file), state);
        let hash_of = |at: &At| at.name(&self.files).map_or(0, |name| self.hashes.hash_one(name));
        for (number, hash) in (0..).zip(hashes) {
            self.places.insert_unique(hash, At { file: Arc::clone(&file), number }, hash_of);
        }
    }

    /// Forgets what a file said, and returns it.
    fn forget(&mut self, name: &str) -> FileState {
        self.faulty.remove(name);
        let state = self.files.remove(name).unwrap_or_default();
        for (number, (object, _)) in (0..).zip(&state.objects) {
            let is_it = |at: &At| at.number == number && *at.file == *name;
            if let Ok(place) = self.places.find_entry(self.hashes.hash_one(object), is_it) {
                place.remove();
            }
        }
        state
    }

    /// The first other file, by name, that holds an object.
    fn holder(&self, object: &ObjectName, except: &str) -> Option<&str> {
        let places = self.places.iter_hash(self.hashes.hash_one(object));
        let places = places.filter(|at| at.name(&self.files) == Some(object));
        places.map(|at| &*at.file).filter(|file| *file != except).min()
    }

    /// Reads a file.
    fn read_file(&mut self, name: &str) -> Outcome {
        let path = self.folder.path().join(name);
        self.read += 1;
        let before = self.forget(name);
        let mut outcome = Outcome::default();
        let text = match fs::read(&path) {
            Ok(bytes) => String::from_utf8(bytes).map_err(|_| "is not UTF-8 text".to_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let gone = before.objects.iter().map(|(object, _)| object);
                let again = self.leave(name, gone, &mut outcome.changes);
                return Outcome { again, ..outcome };
            }
            Err(error) => Err(format!("cannot be read: {error}")),
        };
        let file = Arc::new(path);
        let mut state = Reading::default();
        let mut broken = false;
        match text {
            Ok(text) => {
                let json = name.ends_with(".json");
                documents::parse(&text, json, &mut |parsed| {
                    broken |= self.take(&file, parsed, &mut state, &before, &mut outcome);
                });
            }
            Err(message) => {
                broken = true;
                let place = Some(Place { file, line: 1 });
                let (object, field) = (String::new(), String::new());
                state.problems.push(Problem { place, object, field, message });
            }
        }
        if broken {
            // The broken document may be any of those that are missing now.
            for (object, line) in before.objects {
                state.objects.entry(object).or_insert(line);
            }
            self.keep(name, state);
            return outcome;
        }
        let gone = before.objects.into_iter().map(|(object, _)| object);
        let gone: Vec<ObjectName> = gone.filter(|o| !state.objects.contains_key(o)).collect();
        self.keep(name, state);
        outcome.again.extend(self.leave(name, gone.iter(), &mut outcome.changes));
        outcome
    }

    /// Takes a document in; tells whether it is broken so that it cannot be known what it was.
    fn take(
        &mut self,
        file: &Arc<PathBuf>,
        parsed: Parsed,
        state: &mut Reading,
        before: &FileState,
        outcome: &mut Outcome,
    ) -> bool {
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let place = Place { file: Arc::clone(file), line: parsed.line };
        let mut problem = |object: &str, (field, message): convert::Fault| {
            let (place, object) = (Some(place.clone()), object.to_owned());
            state.problems.push(Problem { place, object, field, message });
        };
        let document = match parsed.document {
            Ok(document) => document,
            Err(message) => {
                problem("", (String::new(), message));
                return true;
            }
        };
        let converted = match convert::convert(&document, &mut self.names) {
            Ok(converted) => converted,
            Err(fault) => {
                problem("", fault);
                return true;
            }
        };
        let useless = converted.object.is_none() && !converted.faults.is_empty();
        for fault in converted.faults {
            problem(&converted.title, fault);
        }
        let Some((object, content)) = converted.object else { return useless };
        if let Some(other) = self.holder(&object, name).filter(|other| *other < name) {
            let message = format!("is in {other} already; this one is passed over");
            problem(&converted.title, (String::new(), message));
            state.objects.insert(object, parsed.line);
            return false;
        }
        if let Some(line) = state.objects.get(&object) {
            let message = format!("is on line {line} already; this one is passed over");
            problem(&converted.title, (String::new(), message));
            return false;
        }
        if !before.has(&object)
            && let Some(later) = self.holder(&object, name)
        {
            outcome.again.insert(later.to_owned()); // it had the object until now
        }
        outcome.changes.push(match (&object, content) {
            (ObjectName::Service(key), Object::Service(s)) => Change::Service(key.clone(), Some(s)),
            (ObjectName::Slice(key), Object::Slice(s)) => Change::Slice(key.clone(), Some(s)),
            (ObjectName::Node(key), Object::Node(node)) => Change::Node(key.clone(), Some(node)),
            (_, Object::Judged(change)) => Change::Judged(change),
            (ObjectName::ServiceCidr(_), Object::ServiceCidr(cidrs)) => {
                self.service_cidrs.insert(object.clone(), cidrs);
                Change::ServiceCidrs(Vec::new())
            }
            _ => object.gone(),
        });
        state.objects.insert(object, parsed.line);
        false
    }

    /// Objects are no more in a file. They are gone, or another file has them too.
    fn leave<'a>(
        &mut self,
        name: &str,
        gone: impl Iterator<Item = &'a ObjectName>,
        changes: &mut Vec<Change>,
    ) -> BTreeSet<String> {
        let mut again = BTreeSet::new();
        for object in gone {
            match self.holder(object, name) {
                Some(other) => {
                    again.insert(other.to_owned());
                }
                None => {
                    if matches!(object, ObjectName::ServiceCidr(_)) {
                        self.service_cidrs.remove(object);
                    }
                    changes.push(object.gone());
                }
            }
        }
        again
    }

    fn gather(&self, noticed: Vec<Noticed>, pending: &mut BTreeSet<String>) -> bool {
        let mut all = false;
        for event in noticed {
            match event {
                Noticed::File(name) if is_manifest(&name) => {
                    pending.insert(name);
                }
                Noticed::Created(name) if is_manifest(&name) => {
                    // A file that is still being written is read when it is closed.
                    let whole = fs::symlink_metadata(self.folder.path().join(&name))
                        .is_ok_and(|file| file.is_symlink() || file.nlink() > 1);
                    if whole {
                        pending.insert(name);
                    }
                }
                // A ConfigMap's files are links through `..data`, which is what is renamed.
                Noticed::File(name) | Noticed::Created(name) => all |= name.starts_with(".."),
                Noticed::All => all = true,
            }
        }
        all
    }
}

impl Source for Manifests {
    fn read(&mut self) -> Result<Update, SourceError> {
        self.read_all()
    }

    fn wait(&mut self) -> Result<Update, SourceError> {
        loop {
            let mut pending = BTreeSet::new();
            let noticed = self.folder.wait()?;
            let mut all = self.gather(noticed, &mut pending);
            // Who moves an endpoint from one slice to another changes two files in a row: they are
            // taken as one change.
            while let Some(noticed) = self.folder.more()? {
                all |= self.gather(noticed, &mut pending);
            }
            if all {
                return self.read_all();
            }
            if !pending.is_empty() {
                return Ok(self.read_files(pending));
            }
        }
    }
}

#[cfg(test)]
#[path = "manifests_tests.rs"]
mod tests;
