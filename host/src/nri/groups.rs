//! The groups of pods, kept to their priorities.
//!
//! A pod's priority is the agent's attribute of its group. This program sets it, and notes
//! beside it that it did: a value that differs from the note is an operator's, by `vmfirst
//! priority`, and stays. What a priority means to write is the agent's table, without weights
//! of CPUs: those are kubelet's, which writes them by requests. `cpu.idle` is written to pods
//! alone, never to the groups around them, where kubelet writes a weight each minute, which
//! the kernel refuses in a group that is idle.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::pods::{Class, Pod, View, class, is_around};
use super::watch::Watch;
use crate::agent::config::Config;
use crate::agent::keeper::{Keeper, Wish, save};
use crate::agent::knob::{IDLE, Knob};
use crate::agent::plan::{GroupStatus, Plan};
use crate::agent::priority::Priority;
use crate::agent::ring::Ring;
use crate::agent::service::{base, disks};
use crate::agent::tree::{ATTRIBUTE, By, Tree, attribute};
use crate::read::Root;
use crate::view::ATTRIBUTE as BOUNDARY;
use crate::{Error, Result};

/// The attribute that has the priority which this program has set.
const NOTE: &str = "user.vmfirst.nri";
const JOURNAL: &str = "run/vmfirst/nri.json";
const AUDIT: &str = "var/log/vmfirst/nri-audit.jsonl";
/// The most pods that are known; a node of Kubernetes has some hundreds.
const PODS_MOST: usize = 20_000;

/// What is told of a pod's group.
#[derive(Debug, Serialize)]
struct PodStatus<'a> {
    /// The pod's namespace and name, if the runtime told them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<&'a str>,
    #[serde(flatten)]
    group: &'a GroupStatus,
}

/// What this program tells of itself.
#[derive(Debug, Serialize)]
struct Status<'a> {
    pid: u32,
    /// The runtime that tells of pods; none where groups are watched only.
    runtime: Option<&'a str>,
    groups: Vec<PodStatus<'a>>,
    /// How many values are other than before.
    changed: usize,
    audit_lost: u64,
    notes: &'a [String],
}

/// All pods of a host.
#[derive(Debug)]
pub struct Groups {
    root: Root,
    base: PathBuf,
    status: &'static str,
    config: Config,
    /// Whether a pod that is offline stays so.
    keep_offline: bool,
    keeper: Keeper,
    /// By their groups' paths.
    pods: BTreeMap<String, Pod>,
    /// Groups whose refusal was told.
    refused: BTreeSet<String>,
    /// Whether all that is to be watched was at the last look.
    is_watched: bool,
    notes: Vec<String>,
}

impl Groups {
    /// For a host with cgroup v2; takes up what a killed program left. `status` is the file
    /// for what is told.
    pub fn new(
        root: Root,
        config: Config,
        keep_offline: bool,
        status: &'static str,
    ) -> Result<Self> {
        let base = base(&root)?;
        let audit = Ring::new(root.path(AUDIT), config.agent.audit_kib << 10);
        let keeper = Keeper::open(&base, root.path(JOURNAL), audit)?;
        Ok(Self {
            root,
            base,
            status,
            config: without_weights(config),
            keep_offline,
            keeper,
            pods: BTreeMap::new(),
            refused: BTreeSet::new(),
            is_watched: true,
            notes: Vec::new(),
        })
    }

    /// Has another configuration hold from the next look on.
    pub fn reload(&mut self, config: Config) {
        self.config = without_weights(config);
        self.forgive();
    }

    /// Writes again what somebody else has changed again and again.
    pub fn forgive(&mut self) {
        self.keeper.forgive();
    }

    /// Takes what there was to say, for the operator.
    pub fn notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// Says something to the operator.
    pub fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    /// Whether a pod can have the priority that it asks for, or why not.
    pub fn allow(&self, pod: &Pod) -> std::result::Result<(), String> {
        let raises =
            pod.class.priority() == Priority::OFFLINE && pod.priority() < Priority::OFFLINE;
        if !self.keep_offline || !raises {
            return Ok(());
        }
        Err(format!(
            "it is of class BestEffort, which stays offline here: priority {} takes a request \
             for CPU or memory",
            pod.priority()
        ))
    }

    /// A pod is about to begin: it has what it asks for, whatever its group had before.
    ///
    /// # Errors
    /// When there are too many.
    pub fn begin(&mut self, pod: Pod) -> Result<()> {
        let folder = self.folder(&pod.group);
        if folder.exists() {
            self.set(&folder, pod.priority());
        }
        self.know(pod)
    }

    /// A pod that there is; an operator's word on its priority stays.
    ///
    /// # Errors
    /// When there are too many.
    pub fn know(&mut self, pod: Pod) -> Result<()> {
        if self.pods.len() >= PODS_MOST && !self.pods.contains_key(&pod.group) {
            let text = format!("more than {PODS_MOST} pods: the others are not known");
            return Err(Error::Unavailable(text));
        }
        self.pods.insert(pod.group.clone(), pod);
        Ok(())
    }

    /// The pod of a group, if it is known.
    pub fn known(&self, group: &str) -> Option<&Pod> {
        self.pods.get(group)
    }

    /// A pod is gone.
    pub fn forget(&mut self, pod: &Pod) {
        self.pods.remove(&pod.group);
    }

    /// No pod is known.
    pub fn forget_all(&mut self) {
        self.pods.clear();
    }

    fn folder(&self, group: &str) -> PathBuf {
        self.base.join(group.trim_start_matches('/'))
    }

    /// Gives a group a priority, with the note that this program did.
    fn set(&mut self, folder: &Path, priority: Priority) {
        let text = priority.to_string();
        for name in [NOTE, ATTRIBUTE] {
            self.mark(folder, name, &text);
        }
    }

    /// Sets an attribute that isn't so already; a group that is gone meanwhile needs none.
    fn mark(&mut self, folder: &Path, name: &str, text: &str) {
        if attribute(folder, name).as_deref() == Some(text) {
            return;
        }
        let flags = rustix::fs::XattrFlags::empty();
        match rustix::fs::setxattr(folder, name, text.as_bytes(), flags) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(error) => self.note(format!(
                "cannot set {name} of {}: {error}",
                folder.display()
            )),
        }
    }

    /// The priority that a pod's group has, which is set where it must be.
    fn settle(
        &mut self,
        folder: &Path,
        path: &str,
        class: Class,
        own: Option<(Priority, By)>,
    ) -> (Priority, By) {
        let known = self.pods.get(path);
        let wanted = known.map(Pod::priority);
        let view = known.and_then(|pod| pod.view);
        if view == Some(View::Pod) {
            self.mark(folder, BOUNDARY, "1");
        }
        let is_ours = || attribute(folder, NOTE) == attribute(folder, ATTRIBUTE);
        match (own, wanted) {
            (Some((found, by)), _) if by != By::Attribute || !is_ours() => self.raised(
                folder,
                path,
                wanted.unwrap_or(class.priority()),
                (found, by),
            ),
            // What a pod that isn't known asks for was known when this was set.
            (Some((found, by)), None) => (found, by),
            _ => {
                let priority = wanted.unwrap_or(class.priority());
                self.set(folder, priority);
                (priority, By::Attribute)
            }
        }
    }

    /// An operator's priority, which counts unless it would raise what stays offline.
    fn raised(
        &mut self,
        folder: &Path,
        path: &str,
        wanted: Priority,
        found: (Priority, By),
    ) -> (Priority, By) {
        let raises = wanted == Priority::OFFLINE && found.0 < wanted;
        if !self.keep_offline || !raises {
            return found;
        }
        if self.refused.insert(path.into()) {
            self.note(format!(
                "{path} is offline and stays so: priority {} is refused",
                found.0
            ));
        }
        if found.1 == By::Attribute {
            self.set(folder, wanted);
        }
        (wanted, By::Attribute)
    }

    /// Looks at all groups and has all pods at their priorities; `runtime` is for what is
    /// told.
    pub fn reconcile(&mut self, runtime: Option<&str>, watch: &Watch) -> Result<()> {
        let mut tree = self.scan(watch)?;
        for at in 0..tree.nodes.len() {
            let folder = tree.folder(at);
            let node = &mut tree.nodes[at];
            node.own = class(&node.path).map(|class| {
                node.foreign = None;
                self.settle(&folder, &node.path, class, node.own)
            });
        }
        let is_there: BTreeSet<_> = tree.nodes.iter().map(|node| node.path.as_str()).collect();
        self.refused.retain(|path| is_there.contains(path.as_str()));
        let mut plan = Plan::new(&tree, &self.config, &disks(&self.root, &self.config));
        plan.retain(is_allowed);
        let done = self.keeper.keep_to(&plan.wishes)?;
        plan.done(done);
        self.tell(runtime, &plan.groups, &tree.notes)
    }

    /// All groups, watched from now on.
    fn scan(&mut self, watch: &Watch) -> Result<Tree> {
        loop {
            let tree = Tree::scan(&self.base, &self.config).map_err(|source| {
                Error::refused("look at", self.base.display().to_string(), source, "")
            })?;
            match self.watch(&tree, watch) {
                // Something may have been made in it before.
                Ok(true) => continue,
                Ok(false) => self.is_watched = true,
                // The host's bound (fs.inotify.max_user_watches); the next look is soon.
                Err(error) if self.is_watched => {
                    self.is_watched = false;
                    self.note(format!("cannot watch all groups of pods: {error}"));
                }
                Err(_) => {}
            }
            return Ok(tree);
        }
    }

    /// Watches the groups in which pods come, and those of pods; whether one of the first is
    /// new.
    fn watch(&self, tree: &Tree, watch: &Watch) -> std::io::Result<bool> {
        let mut is_new = watch.made_in(&self.base)?;
        for (at, node) in tree.nodes.iter().enumerate() {
            if class(&node.path).is_some() {
                watch.written_in(&tree.folder(at))?;
            } else if is_around(&node.path) {
                for above in tree.upwards(at) {
                    is_new |= watch.made_in(&tree.folder(above))?;
                }
            }
        }
        Ok(is_new)
    }

    fn tell(&self, runtime: Option<&str>, groups: &[GroupStatus], notes: &[String]) -> Result<()> {
        let pods = groups.iter().map(|group| PodStatus {
            pod: self.pods.get(&group.group).map(|pod| pod.name.as_str()),
            group,
        });
        let status = Status {
            pid: std::process::id(),
            runtime,
            groups: pods.collect(),
            changed: self.keeper.changed(),
            audit_lost: self.keeper.audit_lost(),
            notes,
        };
        let refused = |source| Error::refused("write", format!("/{}", self.status), source, "");
        save(&self.root.path(self.status), &status).map_err(refused)
    }

    /// Puts all values back, and tells nothing any more. The attributes stay: they go with
    /// their pods, and are the priority that `vmfirst priority` shows.
    pub fn restore(&mut self, why: &str) -> Result<usize> {
        let _ = std::fs::remove_file(self.root.path(self.status));
        self.keeper.restore(why)
    }
}

/// The operator's table without weights of CPUs, and without what is the agent's to do for the
/// whole host.
fn without_weights(mut config: Config) -> Config {
    config.io.cost = false;
    for row in config.table.values_mut() {
        if row.cpu_idle != Some(true) {
            row.cpu_weight = None;
        }
    }
    config
}

/// A weight is wished where the kernel has no cpu.idle.
fn is_allowed(wish: &Wish) -> bool {
    wish.knob != Knob::Cpu || wish.value == IDLE
}
