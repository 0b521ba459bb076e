//! Endpoints from files, changed the ways that editors, scripts and the kubelet change files.

use crate::service::Service;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// A directory that goes with its test.
struct Directory(PathBuf);

impl Directory {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("evenkeel-{test}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a directory");
        Self(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What is left of it is in the way of nobody.
        let _left = fs::remove_dir_all(&self.0);
    }
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).expect("written");
}

fn watched(path: &Path) -> Service {
    Service::of(&format!("file://{}", path.display()))
}

#[tokio::test]
async fn a_list_that_is_rewritten_in_place() {
    let directory = Directory::new("rewritten");
    let path = directory.file("endpoints.yaml");
    write(&path, "- 10.0.0.1:80\n- 10.0.0.2:80\n");
    let service = watched(&path);
    service.becomes(&["10.0.0.1:80", "10.0.0.2:80"]).await;
    write(&path, "- {address: 10.0.0.2:80, weight: 2}\n- {address: 10.0.0.3:80, ready: false}\n- 10.0.0.4:80\n");
    service.becomes(&["10.0.0.2:80", "10.0.0.4:80"]).await;
    // No endpoints is something to say, too.
    write(&path, "[]\n");
    service.becomes(&[]).await;
    assert!(service.is_well());
}

#[tokio::test]
async fn a_file_that_is_replaced_by_a_rename() {
    let directory = Directory::new("renamed");
    let path = directory.file("endpoints.json");
    write(&path, "[\"10.0.0.1:80\"]");
    let service = watched(&path);
    service.becomes(&["10.0.0.1:80"]).await;
    for round in 2..5 {
        let next = directory.file("next");
        write(&next, &format!("[\"10.0.0.{round}:80\"]"));
        fs::rename(&next, &path).expect("renamed");
        service.becomes(&[&format!("10.0.0.{round}:80")]).await;
    }
}

#[tokio::test]
async fn a_mounted_config_map() {
    // As the kubelet does it: the file is a link through `..data`, which is swapped as a whole.
    let directory = Directory::new("mounted");
    let version = |name: &str, text: &str| {
        fs::create_dir(directory.file(name)).expect("a directory");
        write(&directory.file(name).join("endpoints.yaml"), text);
        symlink(name, directory.file("..data_tmp")).expect("a link");
        fs::rename(directory.file("..data_tmp"), directory.file("..data")).expect("swapped");
    };
    version("..2026_1", "- 10.0.0.1:80\n");
    symlink("..data/endpoints.yaml", directory.file("endpoints.yaml")).expect("a link");
    let service = watched(&directory.file("endpoints.yaml"));
    service.becomes(&["10.0.0.1:80"]).await;
    version("..2026_2", "- 10.0.0.2:80\n");
    service.becomes(&["10.0.0.2:80"]).await;
}

#[tokio::test]
async fn a_broken_file_changes_nothing_and_the_place_is_named() {
    let directory = Directory::new("broken");
    let path = directory.file("endpoints.yaml");
    write(&path, "- 10.0.0.1:80\n");
    let service = watched(&path);
    service.becomes(&["10.0.0.1:80"]).await;
    write(&path, "- 10.0.0.2:80\n- nowhere\n");
    service.complains("endpoints.yaml:2:3: \"nowhere\": not an address").await;
    assert_eq!(service.usable().await, ["10.0.0.1:80"]);
    write(&path, "- [\n");
    service.complains("endpoints.yaml:").await;
    assert_eq!(service.usable().await, ["10.0.0.1:80"]);
    write(&path, "- 10.0.0.2:80\n");
    service.becomes(&["10.0.0.2:80"]).await;
    assert!(service.is_well());
}

#[tokio::test]
async fn a_file_that_goes_and_one_that_comes() {
    let directory = Directory::new("gone");
    let path = directory.file("endpoints.yaml");
    let service = watched(&path);
    service.complains("No such file").await;
    write(&path, "- 10.0.0.1:80\n");
    service.becomes(&["10.0.0.1:80"]).await;
    fs::remove_file(&path).expect("removed");
    service.complains("No such file").await;
    // An accident, more likely than a scale to zero.
    assert_eq!(service.usable().await, ["10.0.0.1:80"]);
}

#[tokio::test]
async fn a_file_that_is_too_large_is_not_read() {
    let directory = Directory::new("large");
    let path = directory.file("endpoints.yaml");
    let file = fs::File::create(&path).expect("a file");
    file.set_len(1 << 30).expect("sparse");
    let service = watched(&path);
    service.complains("larger than").await;
}

#[tokio::test]
async fn slices_follow_a_rollout() {
    let directory = Directory::new("slices");
    let path = directory.file("slices.yaml");
    let slice = |endpoints: &str| {
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: a}}\naddressType: IPv4\n\
             ports: [{{name: http, port: 8080}}]\nendpoints:\n{endpoints}"
        )
    };
    let pod = |n: u8, conditions: &str| {
        format!("- {{addresses: [10.0.0.{n}], conditions: {{{conditions}}}, targetRef: {{uid: u{n}}}}}\n")
    };
    write(&path, &slice(&pod(1, "ready: true")));
    let service = watched(&path);
    service.becomes(&["10.0.0.1:8080"]).await;
    write(&path, &slice(&(pod(1, "ready: true") + &pod(2, "ready: false"))));
    write(&path, &slice(&(pod(1, "ready: true") + &pod(2, "ready: true"))));
    service.becomes(&["10.0.0.1:8080", "10.0.0.2:8080"]).await;
    write(&path, &slice(&(pod(1, "ready: false, serving: true, terminating: true") + &pod(2, "ready: true"))));
    service.becomes(&["10.0.0.2:8080"]).await;
    // The last Pod leaves while it still serves: better than nobody.
    write(&path, &slice(&pod(2, "ready: false, serving: true, terminating: true")));
    service.becomes(&["10.0.0.2:8080"]).await;
    write(&path, &slice(&pod(2, "ready: false, serving: false, terminating: true")));
    service.becomes(&[]).await;
}

#[tokio::test]
async fn other_targets_replace_those_before_once_they_have_spoken() {
    let directory = Directory::new("replaced");
    let late = directory.file("late.yaml");
    let target = format!("file://{}", late.display());
    let service = Service::of("10.0.0.1:80,10.0.0.2:80");
    service.becomes(&["10.0.0.1:80", "10.0.0.2:80"]).await;
    service.retarget(&[&target]).await;
    service.complains("late.yaml").await;
    assert_eq!(service.usable().await, ["10.0.0.1:80", "10.0.0.2:80"]);
    write(&late, "- 10.0.0.3:80\n");
    service.becomes(&["10.0.0.3:80"]).await;
}

#[tokio::test]
async fn a_target_that_never_spoke_does_not_keep_those_alive_that_are_replaced() {
    let directory = Directory::new("silent");
    let never = format!("file://{}", directory.file("never.yaml").display());
    let service = Service::of("10.0.0.9:80");
    service.becomes(&["10.0.0.9:80"]).await;
    service.retarget(&["10.0.0.1:80,10.0.0.2:80", &never]).await;
    service.complains("never.yaml").await;
    service.becomes(&["10.0.0.1:80", "10.0.0.2:80", "10.0.0.9:80"]).await;
    // Other words for the first one: it is heard at once, though the second has said nothing.
    service.retarget(&["10.0.0.1:80;weight=0,10.0.0.2:80", &never]).await;
    service.becomes(&["10.0.0.2:80", "10.0.0.9:80"]).await;
}
