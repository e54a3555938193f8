//! Linux kernels from Debian's linux-source-6.12 with patches of our series.
//!
//! One git tree holds the stock source; a kernel is a commit on top of it. To
//! build another kernel the tree is switched to its commit, which touches only
//! the files that differ, so that `make` compiles little more than what changed.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cache::{Cache, Key, hash_file};
use crate::proc::{self, Cancel};
use crate::topics::Topics;
use crate::{Error, Result, kernel_deb, packages};

/// Debian's package of the source.
const PACKAGE: &str = "linux-source-6.12";
/// Lines that `make` prints for a whole build, about; for the progress display.
const STEPS: u64 = 1_900;
/// What the build tells of itself is fixed, so that equal inputs give equal kernels.
const IDENTITY: &[&str] = &[
    "KBUILD_BUILD_TIMESTAMP=2026-01-01",
    "KBUILD_BUILD_USER=vmfirst",
    "KBUILD_BUILD_HOST=testbed",
    "KBUILD_BUILD_VERSION=1",
];

/// Marks a build folder while `make` is at work in it.
const UNFINISHED: &str = ".unfinished";

/// Which kernel to build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// The guests' kernel: stock source, no patch.
    Guest,
    /// The host to compare with: stock but for the patch that counts.
    Stock,
    /// The host with directed yield, and nothing on top.
    Patched,
    /// With the debooster, lockdep and our KUnit tests, which run at boot.
    Kunit,
    /// As `Kunit`, with a checker of memory use.
    Kasan,
    /// With the debooster and a checker of data races.
    Kcsan,
    /// As `Patched`, with designs of others to compare with.
    Compare,
    /// All up to one patch of one topic ([`Topics::steps`]), with lockdep and KUnit tests.
    Step(usize),
    /// The series' scheduler in a small 32-bit kernel.
    Sched32,
    /// As `Patched`, in Debian's own configuration, with modules ([`crate::kernel_deb`]).
    Debian,
}

impl Variant {
    /// Its name in the cache, on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Guest => "guest",
            Self::Stock => "stock",
            Self::Patched => "patched",
            Self::Kunit => "kunit",
            Self::Kasan => "kasan",
            Self::Kcsan => "kcsan",
            Self::Compare => "compare",
            Self::Step(_) => "step",
            Self::Sched32 => "sched32",
            Self::Debian => "debian",
        }
    }

    /// The architecture, as `make` takes it.
    fn arch(self) -> &'static str {
        match self {
            Self::Sched32 => "i386",
            _ => "x86_64",
        }
    }

    fn fragments(self) -> &'static [&'static str] {
        match self {
            Self::Guest => &["guest.fragment"],
            Self::Stock | Self::Patched => &["host.fragment"],
            Self::Compare => &["host.fragment", "debooster.fragment"],
            Self::Kunit | Self::Step(_) => &[
                "host.fragment",
                "debooster.fragment",
                "kunit.fragment",
                "lockdep.fragment",
            ],
            Self::Kasan => &[
                "host.fragment",
                "debooster.fragment",
                "kunit.fragment",
                "lockdep.fragment",
                "kasan.fragment",
            ],
            Self::Kcsan => &["host.fragment", "debooster.fragment", "kcsan.fragment"],
            Self::Sched32 => &["sched32.fragment"],
            Self::Debian => &["debian.fragment"],
        }
    }

    fn fragment_files(self, repo: &Path) -> Vec<PathBuf> {
        let configs = repo.join("kernel-patches/configs");
        self.fragments().iter().map(|f| configs.join(f)).collect()
    }

    /// The topic that its patches end with.
    fn topic(self) -> Option<&'static str> {
        match self {
            Self::Guest | Self::Step(_) => None,
            Self::Stock => Some("statistics"),
            Self::Compare => Some("compare"),
            Self::Patched | Self::Debian => Some("directed-yield"),
            Self::Kunit | Self::Kasan | Self::Kcsan | Self::Sched32 => Some("debooster"),
        }
    }

    fn patches(self, repo: &Path) -> Result<Vec<PathBuf>> {
        let topics = Topics::read(repo)?;
        match (self, self.topic()) {
            (Self::Step(step), _) => Ok(topics.steps()?.swap_remove(step)),
            (_, Some(topic)) => topics.stack(topic),
            (_, None) => Ok(Vec::new()),
        }
    }

    /// The build folder: one for kernels of the same configuration, so that from
    /// one to the other only what their patches touch is compiled.
    fn build_dir(self) -> &'static str {
        match self {
            Self::Guest => "build-guest",
            Self::Stock | Self::Patched | Self::Compare => "build-host",
            Self::Kunit | Self::Step(_) => "build-kunit",
            Self::Kasan => "build-kasan",
            Self::Kcsan => "build-kcsan",
            Self::Sched32 => "build-sched32",
            Self::Debian => "build-debian",
        }
    }

    /// The work tree. A build of all of Debian's modules takes half an hour, in which others
    /// want the tree.
    fn tree(self) -> &'static str {
        match self {
            Self::Debian => "tree-debian",
            _ => TREE,
        }
    }
}

const TREE: &str = "tree";

/// A built kernel.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// The folder with `bzImage`, `vmlinux` and `config`; its name ends in the key.
    pub dir: PathBuf,
}

impl Kernel {
    /// The image with the boot header.
    pub fn bzimage(&self) -> PathBuf {
        self.dir.join("bzImage")
    }

    /// The plain ELF file.
    pub fn vmlinux(&self) -> PathBuf {
        self.dir.join("vmlinux")
    }

    /// Its ticks a second, as it was configured.
    pub fn hz(&self) -> Result<String> {
        let path = self.dir.join("config");
        let config = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        let mut lines = config.lines();
        let hz = lines.find_map(|line| line.strip_prefix("CONFIG_HZ="));
        hz.map(str::to_string)
            .ok_or_else(|| Error::Setup(format!("{} has no CONFIG_HZ", path.display())))
    }

    /// The hash of all inputs of a kernel, made from that source by that compiler.
    pub(crate) fn key(variant: Variant, repo: &Path, source: &str, compiler: &str) -> Result<Key> {
        let mut key = Key::new()
            .text("recipe", "2")
            .text("source", source)
            .text("cc", compiler);
        let inputs = variant.patches(repo)?.into_iter();
        for input in inputs.chain(variant.fragment_files(repo)) {
            key = key.file(&input)?;
        }
        Ok(key)
    }

    /// The name in the cache of a kernel of this tree's patches, whether it is there or not.
    pub fn name(variant: Variant, repo: &Path, source: &str, compiler: &str) -> Result<String> {
        let key = Self::key(variant, repo, source, compiler)?;
        Ok(format!("kernel-{}-{}", variant.name(), key.short()))
    }

    /// Builds `variant`, or takes it from the cache; tells `on_step` how far it is.
    pub fn build(
        variant: Variant,
        repo: &Path,
        cache: &Cache,
        cancel: &Cancel,
        mut on_step: impl FnMut(u64, u64),
    ) -> Result<Self> {
        let key = Self::key(variant, repo, &source_version()?, &compiler_version()?)?;
        let dir = cache.artefact(&format!("kernel-{}", variant.name()), &key, |out| {
            let place = Workplace::open(variant, repo, cache, cancel)?;
            let mut step = 0;
            place.compile(cache, cancel, || {
                step += 1;
                on_step(step, STEPS.max(step));
            })?;
            install(&place.build, out)
        })?;
        Ok(Self { dir })
    }
}

/// The C compiler's first line: it is an input of every build.
pub fn compiler_version() -> Result<String> {
    let mut cc = proc::command("gcc");
    cc.arg("--version");
    Ok(proc::output(cc)?.lines().next().unwrap_or_default().into())
}

/// What Rust is compiled by: release, commit and date.
pub fn rust_version() -> Result<String> {
    let mut rustc = proc::command("rustc");
    rustc.arg("--version");
    Ok(proc::output(rustc)?.trim().to_string())
}

/// The version of Debian's package of the source.
pub(crate) fn source_version() -> Result<String> {
    packages::version(PACKAGE)
        .ok_or_else(|| Error::Setup(format!("Debian's package {PACKAGE} is not installed")))
}

/// The git tree of the stock source, with a build folder for each kernel beside it.
#[derive(Debug)]
pub struct Source {
    /// The work tree.
    pub tree: PathBuf,
    dir: PathBuf,
}

impl Source {
    /// Opens the tree of the installed source package; unpacks it the first time.
    pub fn open(cache: &Cache, cancel: &Cancel) -> Result<Self> {
        let dir = cache.work_dir(&format!("linux-{}", source_version()?))?;
        let source = Self {
            tree: dir.join(TREE),
            dir,
        };
        let _lock = cache.lock("linux-unpack")?;
        if !source.dir.join("unpacked").exists() {
            source.unpack(cache, cancel)?;
        }
        Ok(source)
    }

    /// Another work tree of the same source.
    fn beside(self, name: &str) -> Result<Self> {
        let tree = self.dir.join(name);
        if !tree.exists() {
            let path = tree.to_string_lossy();
            proc::output(self.git(&["worktree", "add", "-f", "--detach", &path, "stock"]))?;
        }
        Ok(Self { tree, ..self })
    }

    fn unpack(&self, cache: &Cache, cancel: &Cancel) -> Result<()> {
        if self.tree.exists() {
            fs::remove_dir_all(&self.tree).map_err(Error::io("remove", &self.tree))?;
        }
        fs::create_dir_all(&self.tree).map_err(Error::io("create", &self.tree))?;
        let log = cache.log("linux-unpack")?;
        let mut tar = proc::command("tar");
        tar.args(["-xf", &format!("/usr/src/{PACKAGE}.tar.xz")])
            .args(["--strip-components=1", "-C"])
            .arg(&self.tree);
        proc::run_logged(tar, &log, cancel, |_| {})?;
        // Debian's .gitignore names everything: -f.
        for args in [
            &["init", "-q"][..],
            &["config", "core.compression", "0"],
            &["config", "gc.auto", "0"],
            &["add", "-A", "-f", "."],
            &["commit", "-q", "-m", "stock"],
            &["tag", "stock"],
        ] {
            proc::run_logged(self.git(args), &log, cancel, |_| {})?;
        }
        let done = self.dir.join("unpacked");
        fs::write(&done, "").map_err(Error::io("write", &done))
    }

    /// A git command in the tree, with an identity and date that never vary.
    pub fn git(&self, args: &[&str]) -> std::process::Command {
        let mut git = proc::command("git");
        git.arg("-C").arg(&self.tree).args(args);
        for who in ["AUTHOR", "COMMITTER"] {
            git.env(format!("GIT_{who}_NAME"), "testbed")
                .env(format!("GIT_{who}_EMAIL"), "testbed@vmfirst.invalid")
                .env(format!("GIT_{who}_DATE"), "2026-01-01T00:00:00Z");
        }
        git
    }

    /// Puts the tree to stock plus `patches`; leaves files that stay the same untouched.
    fn switch_to(&self, patches: &[PathBuf], cancel: &Cancel) -> Result<()> {
        let index = self.tree.with_extension("index");
        let run = |args: &[&str], patch: Option<&Path>| {
            cancel.check()?;
            let mut git = self.git(args);
            git.env("GIT_INDEX_FILE", &index).args(patch);
            proc::output(git)
        };
        run(&["read-tree", "stock"], None)?;
        for patch in patches {
            run(&["apply", "--cached"], Some(patch))?;
        }
        let tree = run(&["write-tree"], None)?;
        let commit = run(
            &["commit-tree", "-p", "stock", "-m", "patched", tree.trim()],
            None,
        )?;
        fs::remove_file(&index).map_err(Error::io("remove", &index))?;
        proc::output(self.git(&["checkout", "-q", "-f", "--detach", commit.trim()]))?;
        Ok(())
    }

    /// The build folder of `variant`, made if it is not there.
    ///
    /// A build that was killed outright leaves half objects, which `make` takes for
    /// whole ones: with its mark still there everything is built anew.
    fn build_dir(&self, variant: Variant) -> Result<PathBuf> {
        let dir = self.dir.join(variant.build_dir());
        if dir.join(UNFINISHED).exists() {
            fs::remove_dir_all(&dir).map_err(Error::io("remove", &dir))?;
        }
        fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
        Ok(dir)
    }
}

/// The tree with the patches of a variant, and its configured build folder: nobody
/// else's until it is dropped.
#[derive(Debug)]
pub(crate) struct Workplace {
    pub(crate) source: Source,
    pub(crate) build: PathBuf,
    variant: Variant,
    _lock: fs::File,
}

impl Workplace {
    pub(crate) fn open(
        variant: Variant,
        repo: &Path,
        cache: &Cache,
        cancel: &Cancel,
    ) -> Result<Self> {
        let source = Source::open(cache, cancel)?.beside(variant.tree())?;
        let lock = cache.lock(match variant.tree() {
            TREE => "linux",
            other => other,
        })?;
        source.switch_to(&variant.patches(repo)?, cancel)?;
        let place = Self {
            build: source.build_dir(variant)?,
            source,
            variant,
            _lock: lock,
        };
        place.configure(&variant.fragment_files(repo), cache, cancel)?;
        Ok(place)
    }

    pub(crate) fn make(&self) -> std::process::Command {
        let mut make = proc::command("make");
        make.arg("-C")
            .arg(&self.source.tree)
            .arg(format!("O={}", self.build.display()))
            .arg(format!("ARCH={}", self.variant.arch()))
            .args(IDENTITY);
        make
    }

    /// Where `make headers` puts the headers for user space.
    pub(crate) fn headers(&self) -> PathBuf {
        self.build.join("usr/include")
    }

    /// The configuration that fragments are added to.
    fn begin_config(&self, config: &Path, log: &Path, cancel: &Cancel) -> Result<()> {
        if self.variant == Variant::Debian {
            return kernel_deb::write_config(config);
        }
        let mut tiny = self.make();
        tiny.arg("tinyconfig");
        proc::run_logged(tiny, log, cancel, |_| {})
    }

    /// That plus the fragments, written only if it differs from what is there.
    fn configure(&self, fragments: &[PathBuf], cache: &Cache, cancel: &Cancel) -> Result<()> {
        let log = cache.log("kernel-configure")?;
        let config = self.build.join(".config");
        let before = fs::read(&config).unwrap_or_default();
        let auto = self.build.join("include/config/auto.conf");
        let stamp = fs::metadata(&auto).and_then(|m| m.modified()).ok();
        self.begin_config(&config, &log, cancel)?;
        let mut merge = proc::command("scripts/kconfig/merge_config.sh");
        merge
            .current_dir(&self.source.tree)
            .args(["-m", "-O"])
            .arg(&self.build)
            .arg(&config)
            .args(fragments);
        proc::run_logged(merge, &log, cancel, |_| {})?;
        let mut finish = self.make();
        finish.arg("olddefconfig");
        proc::run_logged(finish, &log, cancel, |_| {})?;
        // An unchanged configuration keeps its date, or make would configure anew.
        let same = fs::read(&config).map_err(Error::io("read", &config))? == before;
        if let (true, Some(stamp)) = (same, stamp) {
            fs::File::options()
                .append(true)
                .open(&config)
                .and_then(|file| file.set_modified(stamp))
                .map_err(Error::io("date", &config))?;
        }
        Ok(())
    }

    fn compile(&self, cache: &Cache, cancel: &Cancel, on_step: impl FnMut()) -> Result<()> {
        let mut bzimage = self.make();
        bzimage.args(["bzImage", "vmlinux"]);
        let log = cache.log(&format!("kernel-{}", self.variant.name()))?;
        self.run(bzimage, &log, cancel, on_step)
    }

    /// Runs a `make` that writes objects, on all CPUs; tells `on_step` of each line.
    pub(crate) fn run(
        &self,
        mut make: std::process::Command,
        log: &Path,
        cancel: &Cancel,
        mut on_step: impl FnMut(),
    ) -> Result<()> {
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        make.arg(format!("-j{jobs}"));
        let mark = self.build.join(UNFINISHED);
        fs::write(&mark, "").map_err(Error::io("write", &mark))?;
        let made = proc::run_logged(make, log, cancel, |_| on_step());
        // After a failure too: `make` removes what it was about to write.
        fs::remove_file(&mark).map_err(Error::io("remove", &mark))?;
        made
    }
}

fn install(build: &Path, out: &Path) -> Result<()> {
    for (from, to) in [
        ("arch/x86/boot/bzImage", "bzImage"),
        ("vmlinux", "vmlinux"),
        (".config", "config"),
    ] {
        let from = build.join(from);
        fs::copy(&from, out.join(to)).map_err(Error::io("copy", &from))?;
    }
    // Symbols make most of it, and nothing that boots it reads them.
    let mut strip = proc::command("strip");
    strip.arg(out.join("vmlinux"));
    proc::output(strip)?;
    Ok(())
}

/// SHA-256 of a kernel's configuration, for the results.
pub fn config_hash(kernel: &Kernel) -> Result<String> {
    hash_file(&kernel.dir.join("config"))
}
