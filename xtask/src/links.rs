//! Relative links of the documents lead somewhere.

use crate::{Outcome, root};
use std::fs;
use std::path::{Path, PathBuf};

pub(crate) fn check() -> Outcome {
    let mut pages = Vec::new();
    collect(&root(), &mut pages);
    let mut broken = Vec::new();
    for page in &pages {
        let Ok(text) = fs::read_to_string(page) else { continue };
        for target in targets(&text) {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let linked = if file.is_empty() { page.clone() } else { page.parent().unwrap_or(page).join(file) };
            let found = linked.exists() && (anchor.is_empty() || has_anchor(&linked, anchor));
            if !found {
                broken.push(format!("{}: {target}", page.display()));
            }
        }
    }
    match (pages.is_empty(), broken.is_empty()) {
        (true, _) => Outcome::Failed("no documents found".into()),
        (_, true) => Outcome::Passed,
        _ => Outcome::Failed(broken.join("; ")),
    }
}

fn collect(directory: &Path, pages: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        let hidden = name.to_string_lossy().starts_with('.');
        if path.is_dir() && !hidden && name != "target" && name != "corpus" {
            collect(&path, pages);
        } else if path.extension().is_some_and(|e| e == "md") {
            pages.push(path);
        }
    }
}

/// What stands between `](` and `)`, if it is a path.
fn targets(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target.trim()).filter(|target| {
        !target.is_empty() && !target.contains("://") && !target.starts_with("mailto:") && !target.contains(' ')
    })
}

/// Anchors as GitHub makes them of headings.
fn has_anchor(page: &Path, anchor: &str) -> bool {
    let Ok(text) = fs::read_to_string(page) else { return false };
    text.lines().filter(|line| line.starts_with('#')).any(|line| {
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        let made: String = heading
            .chars()
            .filter(|c| c.is_alphanumeric() || *c == ' ' || *c == '-' || *c == '_')
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        made == anchor
    })
}
