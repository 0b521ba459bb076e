//! `evenkeel why`: sentences from the admin API.

use crate::admin::Admin;
use crate::{FAILED, Output, fail, print};
use evenkeel_proxy::format::encoded;
use serde_json::Value;
use std::process::ExitCode;

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  evenkeel why catalog                     who is hot and why; what rebalancing would do now
  evenkeel why catalog 10.0.0.7:80         why this endpoint gets what it gets
  evenkeel why catalog --output json       the same with every figure

Exit codes: 0 answered, 1 no such service or endpoint, or no evenkeel at that address.")]
pub(crate) struct Arguments {
    /// A service, by name
    service: String,
    /// One of its endpoints, by address or name
    endpoint: Option<String>,
    #[command(flatten)]
    admin: Admin,
    /// How to answer
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let mut path = format!("/api/v1/services/{}", encoded(&arguments.service));
    if let Some(endpoint) = &arguments.endpoint {
        path = format!("{path}/endpoints/{}", encoded(endpoint));
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start: {error}"), FAILED),
    };
    match runtime.block_on(arguments.admin.get(&format!("{path}/why"))) {
        Ok(answer) if arguments.output == Output::Json => print(format!("{answer:#}\n").as_bytes()),
        Ok(answer) => {
            let sentences = answer["sentences"].as_array().into_iter().flatten().filter_map(Value::as_str);
            print(sentences.map(|sentence| format!("{}\n", shown(sentence))).collect::<String>().as_bytes())
        }
        Err(error) => fail(&shown(&error.to_string()), FAILED),
    }
}

/// What comes from outside (names, errors of sources) cannot write to the terminal but text and lines.
pub(crate) fn shown(text: &str) -> String {
    text.chars()
        .flat_map(|c| if c.is_control() && c != '\n' { c.escape_default().collect() } else { vec![c] })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn a_name_cannot_command_the_terminal() {
        assert_eq!(shown("a\u{1b}[31m\u{9b}x\nb"), "a\\u{1b}[31m\\u{9b}x\nb");
    }
}
