//! The control groups of the host: which of them have a priority, and which are another
//! manager's.

use std::fs;
use std::io;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::config::Config;
use super::priority::Priority;
use crate::act::Cgroup;

/// The attribute of a group's folder that has its priority.
pub const ATTRIBUTE: &str = "user.vmfirst.priority";

/// How many groups are looked at; what is beyond is told.
const GROUPS_MOST: usize = 50_000;

/// What a group has its priority from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// Its path in the configuration.
    Path,
    /// [`ATTRIBUTE`].
    Attribute,
    /// Its name.
    Name,
}

/// A group.
#[derive(Debug, Clone)]
pub struct Node {
    /// Below cgroup v2's mount point, as "/a/b"; the first one is "/".
    pub path: String,
    /// Its number, which no other group has until the next boot.
    pub id: u64,
    /// The place of the group that it is in.
    pub parent: Option<usize>,
    /// The places of the groups in it.
    pub within: Vec<usize>,
    /// Its own priority.
    pub own: Option<(Priority, By)>,
    /// Who else writes to it, so that the agent doesn't.
    pub foreign: Option<&'static str>,
}

/// The groups as they were found.
#[derive(Debug)]
pub struct Tree {
    /// Where cgroup v2 is.
    pub base: PathBuf,
    /// A group comes before those in it.
    pub nodes: Vec<Node>,
    /// What was not believed or not looked at, for the status.
    pub notes: Vec<String>,
}

impl Tree {
    /// Looks at all groups.
    pub fn scan(base: &Path, config: &Config) -> io::Result<Self> {
        let mut tree = Self {
            base: base.into(),
            nodes: Vec::new(),
            notes: Vec::new(),
        };
        let id = fs::metadata(base)?.ino();
        tree.nodes.push(Node {
            path: "/".into(),
            id,
            parent: None,
            within: Vec::new(),
            own: None,
            foreign: None,
        });
        let mut next = 0;
        while next < tree.nodes.len() && tree.nodes.len() <= GROUPS_MOST {
            tree.children(next, config);
            next += 1;
        }
        if tree.nodes.len() > GROUPS_MOST {
            tree.notes.push(format!(
                "more than {GROUPS_MOST} groups: the others are not looked at"
            ));
        }
        Ok(tree)
    }

    /// A group that is gone meanwhile has none.
    fn children(&mut self, parent: usize, config: &Config) {
        let folder = self.folder(parent);
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let Some(name) = entry
                .file_name()
                .to_str()
                .filter(|_| is_folder)
                .map(String::from)
            else {
                continue;
            };
            let above = &self.nodes[parent];
            let path = format!("{}/{name}", above.path.trim_end_matches('/'));
            let folder = entry.path();
            let own = self.priority(&path, &name, &folder, config);
            let foreign = self.nodes[parent]
                .foreign
                .or_else(|| manager(&name, &folder));
            let told = |below: &String| {
                let below = below.trim_matches('/');
                let path = path.trim_start_matches('/');
                path == below || path.strip_prefix(below).is_some_and(|p| p.starts_with('/'))
            };
            self.nodes.push(Node {
                foreign: foreign.filter(|_| !config.agent.manage.iter().any(told)),
                path,
                id: entry.ino(),
                parent: Some(parent),
                within: Vec::new(),
                own,
            });
            let child = self.nodes.len() - 1;
            self.nodes[parent].within.push(child);
        }
    }

    fn priority(
        &mut self,
        path: &str,
        name: &str,
        folder: &Path,
        config: &Config,
    ) -> Option<(Priority, By)> {
        if let Some(priority) = config.groups.get(path) {
            return Some((*priority, By::Path));
        }
        if let Some(text) = attribute(folder, ATTRIBUTE) {
            // Who owns a delegated group may write there: that is no word of the operator's.
            let owner = fs::metadata(folder).map(|m| m.uid()).unwrap_or(u32::MAX);
            if owner != 0 && owner != rustix::process::geteuid().as_raw() {
                self.notes.push(format!(
                    "{path}: {ATTRIBUTE} of user {owner} is not believed"
                ));
            } else {
                match text.parse() {
                    Ok(priority) => return Some((priority, By::Attribute)),
                    Err(error) => self.notes.push(format!("{path}: {ATTRIBUTE}: {error}")),
                }
            }
        }
        config
            .slices
            .get(name)
            .map(|priority| (*priority, By::Name))
    }

    /// Where a group is in the file system.
    pub fn folder(&self, node: usize) -> PathBuf {
        self.base
            .join(self.nodes[node].path.trim_start_matches('/'))
    }

    /// A group, to read and write.
    pub fn group(&self, node: usize) -> Cgroup {
        Cgroup::at(self.folder(node))
    }

    /// The groups that have a priority of their own.
    pub fn targets(&self) -> impl Iterator<Item = (usize, Priority, By)> {
        let own = |(at, node): (usize, &Node)| node.own.map(|(p, by)| (at, p, by));
        self.nodes.iter().enumerate().filter_map(own)
    }

    /// A group and those that it is in, without the root.
    pub fn upwards(&self, node: usize) -> impl Iterator<Item = usize> {
        let above = |&at: &usize| self.nodes[at].parent;
        std::iter::successors(Some(node), above).filter(|at| *at != 0)
    }

    /// The priority of a group: its own, or that of the nearest group that it is in.
    pub fn priority_of(&self, node: usize) -> Option<Priority> {
        self.upwards(node)
            .find_map(|at| self.nodes[at].own.map(|(priority, _)| priority))
    }
}

/// An attribute's text, if it has one.
pub fn attribute(folder: &Path, name: &str) -> Option<String> {
    let mut bytes = [0; 64];
    let length = rustix::fs::getxattr(folder, name, &mut bytes).ok()?;
    String::from_utf8(bytes[..length].to_vec()).ok()
}

/// Who manages a group beside this agent, by what systemd leaves there and by its name.
fn manager(name: &str, folder: &Path) -> Option<&'static str> {
    if name.starts_with("kubepods") {
        return Some("kubelet");
    }
    if name.contains(".libvirt-") || name.starts_with("machine-qemu") {
        return Some("libvirt");
    }
    if ["docker", "libpod_parent", "buildkit"].contains(&name) {
        return Some("a container engine");
    }
    // systemd sets both; the trusted one takes CAP_SYS_ADMIN to read.
    let delegated = ["user.delegate", "trusted.delegate"];
    let is_set = |attr: &&str| attribute(folder, attr).is_some_and(|text| text == "1");
    delegated
        .iter()
        .any(is_set)
        .then_some("whom systemd delegated it to")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sets an attribute as who makes the group does.
    pub fn set(folder: &Path, name: &str, text: &str) {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(folder, name, text.as_bytes(), flags).unwrap();
    }

    fn scan(groups: &[&str], config: &Config) -> (tempfile::TempDir, Tree) {
        let root = tempfile::tempdir().unwrap();
        for group in groups {
            fs::create_dir_all(root.path().join(group)).unwrap();
        }
        let tree = Tree::scan(root.path(), config).unwrap();
        (root, tree)
    }

    fn at(tree: &Tree, path: &str) -> usize {
        tree.nodes.iter().position(|n| n.path == path).unwrap()
    }

    #[test]
    fn priorities_come_by_path_attribute_and_name_in_this_order() {
        let mut config = Config::default();
        let slice = "vmfirst.slice/vmfirst-low.slice";
        let (root, tree) = scan(&[&format!("{slice}/x.service"), "a/b"], &config);
        let priority =
            |tree: &Tree, path: &str| tree.priority_of(at(tree, path)).map(|p| p.number());
        assert_eq!(priority(&tree, "/vmfirst.slice"), Some(3));
        assert_eq!(priority(&tree, &format!("/{slice}/x.service")), Some(7));
        assert_eq!(priority(&tree, "/a/b"), None);
        set(&root.path().join(slice), ATTRIBUTE, "5");
        set(&root.path().join("a"), ATTRIBUTE, "high");
        config.groups.insert("/a/b".into(), "1".parse().unwrap());
        let tree = Tree::scan(root.path(), &config).unwrap();
        assert_eq!(priority(&tree, &format!("/{slice}")), Some(5));
        assert_eq!(priority(&tree, "/a/b"), Some(1));
        assert_eq!(priority(&tree, "/a"), None);
        assert!(
            tree.notes[0].contains("\"high\" is no priority"),
            "{:?}",
            tree.notes
        );
    }

    /// The agent runs as root: a group of somebody else's is delegated.
    #[test]
    fn an_attribute_of_another_user_is_not_believed() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIP: only root gives a folder away");
            return;
        }
        let (root, _) = scan(&["a"], &Config::default());
        let folder = root.path().join("a");
        set(&folder, ATTRIBUTE, "0");
        std::os::unix::fs::chown(&folder, Some(12345), None).unwrap();
        let tree = Tree::scan(root.path(), &Config::default()).unwrap();
        assert_eq!(tree.targets().count(), 0);
        assert!(tree.notes[0].contains("user 12345"), "{:?}", tree.notes);
    }

    #[test]
    fn what_others_manage_is_theirs_unless_told() {
        let groups = [
            "kubepods.slice/pod1",
            "machine.slice/machine-qemu\\x2d1.scope/vcpu0",
            "s/u/x",
        ];
        let mut config = Config::default();
        let (root, _) = scan(&groups, &config);
        set(&root.path().join("s/u"), "user.delegate", "1");
        let tree = Tree::scan(root.path(), &config).unwrap();
        for group in groups {
            assert!(
                tree.nodes[at(&tree, &format!("/{group}"))]
                    .foreign
                    .is_some(),
                "{group}"
            );
        }
        for group in ["/s", "/machine.slice"] {
            assert!(tree.nodes[at(&tree, group)].foreign.is_none(), "{group}");
        }
        config.agent.manage.push("s/u".into());
        let tree = Tree::scan(root.path(), &config).unwrap();
        assert!(tree.nodes[at(&tree, "/s/u/x")].foreign.is_none());
    }
}
