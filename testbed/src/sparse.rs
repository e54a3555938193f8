//! What sparse, the kernel's checker of address spaces and locks, says about the series.

use std::collections::BTreeSet;
use std::path::Path;

use crate::cache::Cache;
use crate::kernel::{Variant, Workplace};
use crate::proc::{self, Cancel};
use crate::{Error, Result};

/// All that the series changes is compiled in these, with the KUnit tests.
const FOLDERS: [&str; 2] = ["kernel/sched/", "arch/x86/kvm/"];

/// Each warning and error about a line that the series adds to stock source. About
/// stock's own lines sparse says plenty.
pub fn complaints(repo: &Path, cache: &Cache, cancel: &Cancel) -> Result<Vec<String>> {
    let place = Workplace::open(Variant::Kunit, repo, cache, cancel)?;
    let log = cache.log("sparse")?;
    let mut check = place.make();
    // 2: also what needs no compiling.
    check.arg("C=2").args(FOLDERS);
    place.run(check, &log, cancel, || {})?;

    let tree = &place.source.tree;
    let text = std::fs::read_to_string(&log).map_err(Error::io("read", &log))?;
    let mut ours = Vec::new();
    // What is in a header is said for each file that includes it.
    for line in text.lines().collect::<BTreeSet<_>>() {
        let Some((file, number)) = location(line, tree) else {
            continue;
        };
        let range = format!("{number},{number}");
        let blame = ["blame", "-s", "-L", &range, "stock..HEAD", "--", file];
        // A line with ^ is as old as stock.
        if !proc::output(place.source.git(&blame))?.starts_with('^') {
            ours.push(line.to_string());
        }
    }
    Ok(ours)
}

/// The file in `tree` and the line that a warning or an error is about.
fn location<'a>(said: &'a str, tree: &Path) -> Option<(&'a str, u32)> {
    let mut parts = said.splitn(4, ':');
    let (file, number, _column) = (parts.next()?, parts.next()?, parts.next()?);
    let kind = parts.next()?.trim_start();
    if !kind.starts_with("warning:") && !kind.starts_with("error:") {
        return None;
    }
    let file = Path::new(file).strip_prefix(tree).ok()?.to_str()?;
    Some((file, number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_about_the_tree_has_a_location() {
        let tree = Path::new("/tree");
        let kvm = "/tree/arch/x86/kvm/../../../virt/kvm/kvm_main.c:67:25: warning: context";
        let file = "arch/x86/kvm/../../../virt/kvm/kvm_main.c";
        assert_eq!(location(kvm, tree), Some((file, 67)));
        let error = "/tree/kernel/sched/fair.c:8:2: error: incompatible types";
        assert_eq!(location(error, tree), Some(("kernel/sched/fair.c", 8)));
        for other in [
            "/tree/kernel/sched/fair.c:8:2:    expected struct rq *",
            "/tree/kernel/sched/build_policy.c: note: in included file:",
            "/build/include/generated/autoconf.h:1:1: warning: odd",
            "  CHECK   /tree/kernel/sched/fair.c",
            "",
        ] {
            assert_eq!(location(other, tree), None, "{other}");
        }
    }
}
