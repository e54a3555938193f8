//! Packages of the programs, for Debian 12 and later: packaging/debian says what is in them,
//! debhelper makes them.

use std::fs;
use std::path::{Path, PathBuf};

use crate::packaged::found;
use crate::packages;
use crate::proc::{self, Cancel};
use crate::programs::Programs;
use crate::workshop::Workshop;
use crate::{Error, Result};

/// The names of the packages.
pub const PACKAGES: [&str; 2] = ["vmfirst", "vmfirst-bench"];
/// Programs with man pages and completions, and the Cargo packages that they are in.
const DOCUMENTED: [(&str, &str); 3] = [
    ("vmfirst", "vmfirst-host"),
    ("vmm", "vmm"),
    ("dense-bench", "dense-bench"),
];
/// Files of the repository in the packages, and in which folder packaging/debian expects them.
const FILES: &[(&str, &str)] = &[
    ("vmm/systemd/vmm@.service", "systemd"),
    ("host/systemd/vmfirst-agent.service", "systemd"),
    ("host/systemd/vmfirst-nri.service", "systemd"),
    ("host/systemd/vmfirst-view.service", "systemd"),
    ("host/dashboards/grafana.json", "dashboards"),
    ("host/dashboards/rules.yml", "dashboards"),
    ("docs/agent.md", "docs"),
    ("docs/first-ten-minutes.md", "docs"),
    ("docs/kubernetes.md", "docs"),
    ("docs/measuring.md", "docs"),
    ("docs/operators.md", "docs"),
    ("docs/threat-model.md", "docs"),
    ("docs/vmfirst.md", "docs"),
    ("docs/view.md", "docs"),
    ("docs/workloads.md", "docs"),
];

/// Builds the packages into `out`, and returns their files in the order of [`PACKAGES`].
pub fn build(workshop: &Workshop, out: &Path, cancel: &Cancel) -> Result<[PathBuf; 2]> {
    packages::install_for_packages(&workshop.cache, cancel)?;
    fs::create_dir_all(out).map_err(Error::io("create", out))?;
    let work = tempfile::tempdir_in(out).map_err(Error::io("write to", out))?;
    let tree = Tree {
        workshop,
        root: work.path().join("vmfirst"),
        cancel,
    };
    tree.fill()?;
    let made = tree.package()?;
    let mut kept = PACKAGES.map(|_| PathBuf::new());
    for (name, kept) in PACKAGES.iter().zip(&mut kept) {
        let package = found(&made, |file| {
            file.starts_with(&format!("{name}_")) && file.ends_with(".deb")
        })?;
        *kept = out.join(package.file_name().unwrap_or_default());
        fs::rename(&package, &kept).map_err(Error::io("move", &package))?;
    }
    Ok(kept)
}

/// What debhelper works in: the folder debian, and beside it, in `built`, what is packaged.
struct Tree<'a> {
    workshop: &'a Workshop,
    root: PathBuf,
    cancel: &'a Cancel,
}

impl Tree<'_> {
    fn fill(&self) -> Result<()> {
        let repo = &self.workshop.repo;
        copy_all(&repo.join("packaging/debian"), &self.folder("debian")?)?;
        for (file, folder) in FILES {
            copy_into(&repo.join(file), &self.folder(&format!("built/{folder}"))?)?;
        }
        self.changelog()?;
        let bench = self.folder("built/bench")?;
        self.workshop.images(&bench)?;
        self.readme_of_images()?;
        let bin = self.folder("built/bin")?;
        copy_into(&bench.join("vmm"), &bin)?;
        let cache = &self.workshop.cache;
        copy_into(&Programs::operators(repo, cache, self.cancel)?, &bin)?;
        for (program, package) in DOCUMENTED {
            self.document(program, package)?;
        }
        Ok(())
    }

    fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.root.join(name);
        fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        Ok(folder)
    }

    /// Of one entry: the version is the workspace's, and the time the commit's.
    fn changelog(&self) -> Result<()> {
        let text = format!(
            "vmfirst ({}) unstable; urgency=medium\n\n  * Of commit {}.\n\n -- \
             vmfirst developers <dev@vmfirst.invalid>  {}\n",
            env!("CARGO_PKG_VERSION"),
            self.commit("%h")?,
            self.commit("%aD")?,
        );
        write(&self.root.join("debian/changelog"), &text)
    }

    fn commit(&self, format: &str) -> Result<String> {
        let mut git = proc::command("git");
        git.current_dir(&self.workshop.repo)
            .args(["log", "-1", &format!("--format={format}")]);
        Ok(proc::output(git)?.trim().to_string())
    }

    fn readme_of_images(&self) -> Result<()> {
        let versions = packages::versions();
        let lines = versions
            .iter()
            .map(|(name, version)| format!("{name} {version}\n"));
        let text = "The guests' kernel and images in this package were built from these packages \
                    of Debian,\nwhose source `apt-get source NAME=VERSION` has:\n\n";
        let text = text.to_string() + &lines.collect::<String>();
        write(&self.root.join("built/README.images"), &text)
    }

    /// Has a program write its man pages and completions. What does that is not packaged.
    fn document(&self, program: &str, package: &str) -> Result<()> {
        let (man, bash, zsh) = (
            self.folder("built/man")?,
            self.folder("built/bash")?,
            self.folder("built/zsh")?,
        );
        for (shell, file) in [
            ("bash", bash.join(program)),
            ("zsh", zsh.join(format!("_{program}"))),
        ] {
            let mut cargo = proc::command("cargo");
            cargo
                .current_dir(&self.workshop.repo)
                .args([
                    "run",
                    "--quiet",
                    "--package",
                    package,
                    "--features",
                    "pages",
                ])
                .args(["--", "generate", "--completions", shell, "--man"])
                .arg(&man);
            write(&file, &proc::output(cargo)?)?;
        }
        Ok(())
    }

    /// Returns the folder of the packages.
    fn package(&self) -> Result<PathBuf> {
        let mut build = proc::command("dpkg-buildpackage");
        build
            .current_dir(&self.root)
            .args(["--build=binary", "--no-sign"])
            .env("SOURCE_DATE_EPOCH", self.commit("%at")?);
        proc::run_logged(build, &self.workshop.cache.log("deb")?, self.cancel, |_| {})?;
        Ok(self.root.join(".."))
    }
}

fn copy_all(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).map_err(Error::io("read", from))? {
        copy_into(&entry.map_err(Error::io("read", from))?.path(), to)?;
    }
    Ok(())
}

fn copy_into(file: &Path, folder: &Path) -> Result<()> {
    let to = folder.join(file.file_name().unwrap_or_default());
    fs::copy(file, to)
        .map(drop)
        .map_err(Error::io("copy", file))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(Error::io("write", path))
}
