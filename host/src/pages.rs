//! Man pages and completions of a program, by its own command line: for packages.

use std::fs;
use std::path::PathBuf;

use clap::{Args, Command};
use clap_complete::Shell;

use crate::{Error, Result};

/// What packages need.
#[derive(Debug, Args)]
pub struct Generate {
    /// Write a man page of each command into this folder
    #[arg(long, value_name = "FOLDER")]
    man: Option<PathBuf>,
    /// Print a shell's completions
    #[arg(long, value_name = "SHELL")]
    completions: Option<Shell>,
}

impl Generate {
    /// Writes the pages of `program`, of the manual's section for administrators, and returns
    /// the completions.
    pub fn run(self, mut program: Command) -> Result<Vec<u8>> {
        let mut completions = Vec::new();
        let name = program.get_name().to_string();
        if let Some(shell) = self.completions {
            clap_complete::generate(shell, &mut program, &name, &mut completions);
        }
        let Some(folder) = self.man else {
            return Ok(completions);
        };
        program.build();
        let shown = |page: &&Command| !page.is_hide_set() && page.get_name() != "help";
        let pages = program.get_subcommands().filter(shown);
        let pages = pages.map(|page| (format!("{name}-{}", page.get_name()), page));
        let pages = pages.chain([(name.clone(), &program)]);
        for (title, page) in pages {
            let path = folder.join(format!("{title}.8"));
            let mut text = Vec::new();
            let man = clap_mangen::Man::new(page.clone())
                .title(&title)
                .section("8")
                .source(concat!("vmfirst ", env!("CARGO_PKG_VERSION")))
                .manual("vmfirst");
            man.render(&mut text)
                .and_then(|()| fs::write(&path, text))
                .map_err(|source| {
                    Error::refused("write", path.display().to_string(), source, "")
                })?;
        }
        Ok(completions)
    }
}
