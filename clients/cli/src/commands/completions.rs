//! `touchline completions`: a script for the shell. Installs nothing.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::{Error, args::Cli};

/// Flags of `touchline completions`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  touchline completions bash > ~/.local/share/bash-completion/completions/touchline
  touchline completions zsh  > ~/.zfunc/_touchline
  touchline completions fish > ~/.config/fish/completions/touchline.fish")]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Prints the script.
pub fn run(args: &CompletionsArgs) -> Result<(), Error> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "touchline", &mut script);
    Ok(std::io::Write::write_all(&mut std::io::stdout(), &script)?)
}
