//! `vmfirst tune`.

use clap::Args;

use super::print;
use crate::act::tune::{PROFILES, Profile, State, Tuner};
use crate::read::Root;
use crate::{Error, Result};

/// What `vmfirst tune --help` ends with.
pub const HELP: &str = "\
Examples:
  vmfirst tune                     the profiles, and what each is for
  vmfirst tune dense               what the profile would change on this host
  vmfirst tune dense --apply       change it, and remember what was there
  vmfirst tune --undo              put all back as it was before the first --apply

Two knobs are of vmfirst's kernel series. directed_yield is what a yield to a vCPU of the same
VM does: with lend, its default, who yields lends the turn and nobody pays for it; with off all
is as in a stock kernel. ipi_tracking is whether KVM remembers for whose answer to an IPI a vCPU
spins, and ranks whom it yields to; off, it scans as a stock kernel does. ple_window (Intel)
counts cycles and pause_filter_count (AMD) PAUSE instructions until a spinning vCPU leaves its
guest.

The old values are in /run/vmfirst/tune.json until --undo or a reboot, which brings the
kernel's own back. A knob that this kernel lacks, or takes only when its module is loaded, is
listed with the reason and left alone. Values are places to begin from, not measured for
your load: look at vmfirst stat before and after.";

/// The options.
#[derive(Debug, Args)]
pub struct Options {
    /// The profile to compare with
    profile: Option<String>,
    /// Change what differs
    #[arg(long, requires = "profile", conflicts_with = "undo")]
    apply: bool,
    /// Put back what --apply changed
    #[arg(long, conflicts_with = "profile")]
    undo: bool,
}

impl Options {
    /// Compares, applies or undoes.
    pub fn run(self, root: &Root) -> Result<()> {
        let tuner = Tuner::new(root.clone());
        if self.undo {
            let lines = tuner.undo()?;
            return print(&lines.iter().map(|l| format!("{l}\n")).collect::<String>());
        }
        let Some(name) = self.profile else {
            let lines = PROFILES
                .iter()
                .map(|p| format!("{:<10} {}\n", p.name, p.what));
            return print(&lines.collect::<String>());
        };
        let profile = PROFILES.iter().find(|profile| profile.name == name);
        let profile = profile.ok_or_else(|| {
            let names: Vec<_> = PROFILES.iter().map(|profile| profile.name).collect();
            Error::Usage(format!(
                "no profile is called {name}: there are {}",
                names.join(", ")
            ))
        })?;
        print(&differences(&tuner, profile))?;
        if self.apply {
            print(&match tuner.apply(profile)? {
                0 => "nothing to change\n".into(),
                count => format!("{count} changed; vmfirst tune --undo puts all back\n"),
            })?;
        }
        Ok(())
    }
}

fn differences(tuner: &Tuner, profile: &Profile) -> String {
    let mut text = format!("{:<18} {:>12} {:>12}\n", "KNOB", "NOW", "PROFILE");
    for (knob, asked, state) in tuner.compare(profile) {
        let (now, note) = match state {
            State::Same(now) => (now, String::new()),
            State::Differs(now) => (now, "<- would change".into()),
            State::Fixed(now, why) => (now, why),
            State::Lacking(why) => ("-".into(), why),
        };
        text += &format!("{:<18} {now:>12} {asked:>12}  {note}\n", knob.name);
    }
    text
}
