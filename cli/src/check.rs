//! `evenkeel check`: is this configuration right?

use crate::{BAD_CONFIG, Output, fail, print};
use evenkeel_proxy::config::{self, Problems};
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  evenkeel check evenkeel.yaml
  evenkeel check evenkeel.yaml --output json | jq .problems

Exit codes: 0 the file is right, 3 it is not.")]
pub(crate) struct Arguments {
    /// The file
    #[arg(required_unless_present = "reference")]
    file: Option<PathBuf>,
    /// How to answer
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Print a generated page of the manual (Markdown)
    #[arg(long, hide = true)]
    reference: Option<Page>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Page {
    Config,
    Metrics,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    match arguments.reference {
        Some(Page::Config) => return print(config::reference().as_bytes()),
        Some(Page::Metrics) => return print(evenkeel_proxy::metrics_reference().as_bytes()),
        None => {}
    }
    let Some(file) = &arguments.file else { return fail("which file?", crate::USAGE) };
    let checked = config::load(file);
    if arguments.output == Output::Json {
        let problems = match &checked {
            Ok(_) => Vec::new(),
            Err(problems) => problems
                .problems
                .iter()
                .map(|p| json!({"line": p.line, "column": p.column, "path": p.path, "message": p.message}))
                .collect(),
        };
        let answer = json!({"file": file.display().to_string(), "ok": checked.is_ok(), "problems": problems});
        let code = print(format!("{answer:#}\n").as_bytes());
        return if checked.is_ok() { code } else { ExitCode::from(BAD_CONFIG) };
    }
    match checked {
        Ok(config) => {
            let listeners: usize = config.services.iter().map(|s| s.listen.len()).sum();
            let plural = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
            let (services, listeners) = (plural(config.services.len(), "service"), plural(listeners, "listener"));
            print(format!("{}: ok: {services}, {listeners}\n", file.display()).as_bytes())
        }
        Err(problems) => {
            explain(&problems);
            ExitCode::from(BAD_CONFIG)
        }
    }
}

/// Every problem, with the line that it is about.
pub(crate) fn explain(problems: &Problems) {
    let source = std::fs::read_to_string(&problems.file).unwrap_or_default();
    for problem in &problems.problems {
        let one = Problems { file: problems.file.clone(), problems: vec![problem.clone()] };
        eprintln!("{one}");
        if let Some(line) = source.lines().nth(problem.line - 1) {
            eprintln!("{:5} | {line}", problem.line);
            eprintln!("      | {:>width$}", "^", width = problem.column);
        }
    }
}
