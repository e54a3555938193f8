//! Whose machine a reader sees: the boundary, a control group that the reader is in.

use std::io;

use glob::{MatchOptions, Pattern};

use crate::read::Root;

/// A control group with this attribute is a boundary, whatever its value.
pub const ATTRIBUTE: &str = "user.vmfirst.view";

/// One "*" stands for one part of a path, or for some of it.
const OPTIONS: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

/// Which groups are boundaries.
#[derive(Debug, Clone, Default)]
pub struct Boundaries {
    named: Vec<Pattern>,
}

impl Boundaries {
    /// Those groups that have a name of these, as "/machine.slice/*".
    pub fn named(named: Vec<Pattern>) -> Self {
        Self { named }
    }

    /// The boundary of a process or thread, as a path below cgroup v2's mount point; none when
    /// it sees the host: in the root group, or outside of what is seen from here.
    pub fn of(&self, root: &Root, mount: &str, id: i32) -> io::Result<Option<String>> {
        // The kernel knows no id of who reads from another PID namespace.
        if id == 0 {
            return Ok(None);
        }
        let groups = root.text(&format!("proc/{id}/cgroup"))?;
        let path = unified(&groups);
        if path.split('/').any(|part| part == "..") || path.trim_matches('/').is_empty() {
            return Ok(None);
        }
        Ok(Some(self.around(path, |group| {
            let file = root.path(&format!("{mount}{group}"));
            rustix::fs::getxattr(file, ATTRIBUTE, &mut [0; 256]).is_ok()
        })))
    }

    /// The outermost group around `path` that is marked, else the outermost that is named, else
    /// the reader's own.
    fn around(&self, path: &str, is_marked: impl Fn(&str) -> bool) -> String {
        let named = |group: &str| {
            let matches = |pattern: &Pattern| pattern.matches_with(group, OPTIONS);
            self.named.iter().any(matches)
        };
        let mut outermost = outermost_first(path);
        let marked = outermost.clone().find(|group| is_marked(group));
        let found = marked.or_else(|| outermost.find(|group| named(group)));
        found.unwrap_or(path).to_string()
    }
}

/// The path in cgroup v2 of what /proc/PID/cgroup has; a host may have many lines of v1.
fn unified(groups: &str) -> &str {
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"));
    path.unwrap_or_default()
}

/// A group's path and those of the groups that it is in, without the root: "/a", "/a/b".
fn outermost_first(path: &str) -> impl Iterator<Item = &str> + Clone {
    let ends = path.match_indices('/').map(|(at, _)| at).skip(1);
    ends.chain([path.len()]).map(|end| &path[..end])
}

/// The same from inside outwards: "/a/b", "/a".
pub fn innermost_first(path: &str) -> impl Iterator<Item = &str> {
    let mut all: Vec<_> = outermost_first(path).collect();
    all.reverse();
    all.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(named: &[&str], marked: &[&str], path: &str) -> String {
        let named = named.iter().map(|name| Pattern::new(name).unwrap());
        Boundaries::named(named.collect()).around(path, |group| marked.contains(&group))
    }

    #[test]
    fn the_outermost_named_group_is_the_boundary() {
        let path = "/machine.slice/web.scope/init";
        assert_eq!(
            of(&["/machine.slice/*"], &[], path),
            "/machine.slice/web.scope"
        );
        assert_eq!(
            of(&["/*/*/*", "/machine.slice/web*"], &[], path),
            "/machine.slice/web.scope"
        );
        assert_eq!(of(&["/web.scope", "/machine.slice/*b"], &[], path), path);
    }

    #[test]
    fn a_mark_goes_before_names() {
        let path = "/pods/burst/pod7/box";
        assert_eq!(
            of(&["/pods"], &["/pods/burst/pod7", path], path),
            "/pods/burst/pod7"
        );
        assert_eq!(of(&[], &["/other"], path), path);
    }

    #[test]
    fn the_line_of_v2_is_found_among_those_of_v1() {
        let mixed = "3:cpuset:/x\n1:name=systemd:/0::/y\n0::/a/b c\n";
        assert_eq!(unified(mixed), "/a/b c");
        assert_eq!(unified("0::/"), "/");
        assert_eq!(unified("3:cpuset:/x"), "");
        assert_eq!(unified(""), "");
    }

    #[test]
    fn groups_are_counted_from_both_ends() {
        assert_eq!(
            outermost_first("/a/b/c").collect::<Vec<_>>(),
            ["/a", "/a/b", "/a/b/c"]
        );
        assert_eq!(innermost_first("/a/b").collect::<Vec<_>>(), ["/a/b", "/a"]);
    }
}
