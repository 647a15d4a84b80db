//! The everyday tasks of docs/TASKS.md: each command does what its row says.

use crate::support::tree::{snapshot, write};
use crate::support::{Client, Server};
use std::path::Path;
use std::process::Command;

/// The commands of the table.
fn tasks() -> Vec<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/TASKS.md");
    let page = std::fs::read_to_string(page).unwrap();
    let rows = page.lines().filter(|line| line.ends_with("` |")).map(|row| {
        let (_, command) = row.rsplit_once("| `").unwrap();
        command.trim_end_matches("` |").replace("\\|", "|")
    });
    rows.collect()
}

/// Runs a line in a shell that finds haul.
fn shell(client: &Client, line: &str) -> String {
    let like = client.command(["--version"]);
    let dir = Path::new(env!("CARGO_BIN_EXE_haul")).parent().unwrap();
    let path = format!("{}:{}", dir.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("sh");
    command.args(["-ec", line]).current_dir(client.work());
    command.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("PATH", path);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_task_takes_one_command() {
    let (server, other) = (Server::start(), Server::start());
    let client = server.client();
    server.user(&["add", "drop", "--write-only", "--root", "inbox"], "p");
    for (name, of, user) in
        [("nas", &server, "kim"), ("vps", &other, "kim"), ("drop", &server, "drop")]
    {
        let invite = of.invite(user);
        let login = format!("printf %s '{invite}' | haul login --name {name} {}", of.address);
        shell(&client, &login);
    }
    for path in [
        "photos/1.jpg",
        "photos/d/2.jpg",
        "photos/text",
        "project/a",
        "project/x.tmp",
    ] {
        write(&client.work().join(path), path.as_bytes());
    }
    write(&client.work().join("project/node_modules/m"), b"m");
    write(&client.work().join("project/.gitignore"), b"*.tmp\n");
    write(&client.work().join("report.pdf"), b"report");
    write(&client.work().join("big.iso"), &vec![7; 3 << 20]);
    write(&server.root.join("mirror/gone"), b"gone");
    let tasks = tasks();
    assert!(tasks.len() >= 20, "{}", tasks.len());
    let (here, there) =
        (|path: &str| client.work().join(path), |path: &str| server.root.join(path));
    for task in tasks {
        if task.contains("--backup-dir") {
            write(&there("pictures/extra"), b"extra");
        }
        if task.contains("--keep-deleted") {
            write(&there("pictures/lost/1"), b"lost");
        }
        let out = shell(&client, &task);
        let same = |a: &str, b: &str| snapshot(&here(a)) == snapshot(&there(b));
        let holds = match task.as_str() {
            "haul put report.pdf nas:" => there("report.pdf").is_file(),
            "haul put -r photos nas:" => same("photos", "photos"),
            "haul get -a nas:photos back" => {
                snapshot(&here("back/photos")) == snapshot(&here("photos"))
            }
            "haul put -an --delete photos/ nas:mirror" => there("mirror/gone").exists(),
            "haul put -a --delete photos/ nas:mirror" => same("photos", "mirror"),
            "haul get 'nas:photos/*.jpg' ." => here("1.jpg").is_file() && !here("text").exists(),
            "haul cat nas:photos.tar | tar t" => out.contains("photos/d/2.jpg"),
            "haul ls -ltr nas:photos" => out.contains("1.jpg") && out.contains("text"),
            "haul find nas: -size +1M -type f" => out.contains("big.iso"),
            _ if task.contains("--backup-dir") => {
                there("before/extra").exists() && same("photos", "pictures")
            }
            _ if task.contains("--keep-deleted") => !there("pictures/lost").exists(),
            "haul undelete nas:pictures" => out.contains("lost/1"),
            "haul undelete nas:pictures lost" => there("pictures/lost/1").exists(),
            "haul cp -a nas:photos nas:copy" => same("photos", "copy/photos"),
            "haul cp -a photos backup" => here("backup/photos/d/2.jpg").is_file(),
            "haul put report.pdf drop:" => there("inbox/report.pdf").is_file(),
            "haul rm -r nas:mirror" => !there("mirror").exists(),
            _ if task.contains("vps:") => other.root.join("report.pdf").is_file(),
            _ if task.contains("--ignore-file") => {
                there("work/project/a").exists() && !there("work/project/x.tmp").exists()
            }
            _ if task.contains("--exclude") => {
                there("project/a").exists()
                    && !there("project/x.tmp").exists()
                    && !there("project/node_modules").exists()
            }
            _ if task.contains("--only") => !here("pictures/photos/text").exists(),
            _ => true,
        };
        assert!(holds, "{task}: {out}");
    }
}
