//! The kernel's own word that a group waits: triggers on its pressure files.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use rustix::event::{PollFd, PollFlags};

use super::config;
use super::monitor::Of;
use super::tree::Tree;

/// More groups are scored at the end of their windows only.
const MOST: usize = 1000;

/// A trigger, which lasts as long as its file is open.
#[derive(Debug)]
struct Trigger {
    id: u64,
    threshold: u64,
    /// None where the kernel refuses it: it isn't asked again.
    file: Option<File>,
    /// It fired since the last look, and is not listened to before the next one.
    heard: bool,
}

/// The triggers of all groups that have records.
#[derive(Debug, Default)]
pub struct Triggers(BTreeMap<(String, Of), Trigger>);

impl Triggers {
    /// Has a trigger for each resource of each group that has records, and no others.
    pub fn set(&mut self, tree: &Tree, marks: Option<&config::Monitor>) {
        let mut before = std::mem::take(&mut self.0);
        let Some(marks) = marks else {
            return;
        };
        let watched = tree.targets().filter(|(_, p, _)| marks.watches(*p));
        for (node, ..) in watched.take(MOST) {
            for of in Of::ALL {
                let (id, threshold) = (tree.nodes[node].id, marks.threshold_us());
                let key = (tree.nodes[node].path.clone(), of);
                let same = |old: &Trigger| old.id == id && old.threshold == threshold;
                let mut trigger = match before.remove(&key).filter(same) {
                    Some(trigger) => trigger,
                    None => Trigger {
                        id,
                        threshold,
                        file: open(&tree.folder(node).join(of.file()), threshold).ok(),
                        heard: false,
                    },
                };
                trigger.heard = false;
                self.0.insert(key, trigger);
            }
        }
    }

    fn heard_of(&self) -> impl Iterator<Item = (&(String, Of), &File)> {
        let listening = self.0.iter().filter(|(_, trigger)| !trigger.heard);
        listening.filter_map(|(key, trigger)| Some((key, trigger.file.as_ref()?)))
    }

    /// What to wait for.
    pub fn files(&self) -> impl Iterator<Item = PollFd<'_>> {
        let files = self.heard_of();
        files.map(|(_, file)| PollFd::new(file, PollFlags::PRI))
    }

    /// Which fired, of what came for [`Self::files`]. A group that is gone has an error instead.
    pub fn fired(&self, events: &[PollFlags]) -> Vec<(String, Of)> {
        let all = self.heard_of().zip(events);
        let fired = all.filter(|(_, events)| events.intersects(PollFlags::PRI | PollFlags::ERR));
        fired.map(|((key, _), _)| key.clone()).collect()
    }

    /// These are not listened to until they are set anew.
    pub fn heard(&mut self, keys: &[(String, Of)]) {
        for key in keys {
            if let Some(trigger) = self.0.get_mut(key) {
                trigger.heard = true;
            }
        }
    }
}

fn open(path: &Path, threshold: u64) -> io::Result<File> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let window = config::TRIGGER_WINDOW_US;
    file.write_all(format!("some {threshold} {window}\0").as_bytes())?;
    Ok(file)
}
