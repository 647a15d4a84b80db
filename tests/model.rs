//! Random operations of several clients at once, against a model that is a map: each has a directory of its own, in which
//! the model says exactly what must be there, and all share one, in which every file must be one that somebody put.

use crate::support::tree::bytes;
use crate::support::{Client, Server};
use std::collections::BTreeMap;
use std::sync::Mutex;

/// Operations of each client.
const STEPS: usize = 30;
/// Clients at once.
const CLIENTS: u64 = 3;

/// xorshift: the same numbers for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    fn name(&mut self) -> String {
        format!("n{}", self.below(6))
    }

    fn content(&mut self) -> Vec<u8> {
        let size = [0, 10, 5000, 1 << 20, (2 << 20) + 77][self.below(5) as usize];
        bytes(self.below(1 << 40) + 1, size)
    }
}

/// What is at a path: a directory, or a file with this content.
#[derive(Clone, PartialEq, Debug)]
enum Node {
    Dir,
    File(Vec<u8>),
}

/// A file system, for people who know what it must do.
#[derive(Default)]
struct Model(BTreeMap<String, Node>);

impl Model {
    fn children(&self, path: &str) -> Vec<String> {
        let prefix = format!("{path}/");
        let beneath = self.0.keys().filter_map(|p| p.strip_prefix(&prefix));
        beneath.filter(|rest| !rest.contains('/')).map(str::to_string).collect()
    }

    fn is_dir(&self, path: &str) -> bool {
        self.0.get(path) == Some(&Node::Dir)
    }

    fn remove(&mut self, path: &str) {
        let prefix = format!("{path}/");
        self.0.retain(|p, _| p != path && !p.starts_with(&prefix));
    }

    fn rename(&mut self, from: &str, to: &str) {
        let prefix = format!("{from}/");
        let moved: Vec<(String, Node)> = self
            .0
            .iter()
            .filter(|(p, _)| *p == from || p.starts_with(&prefix))
            .map(|(p, n)| (format!("{to}{}", &p[from.len()..]), n.clone()))
            .collect();
        self.remove(from);
        self.remove(to);
        self.0.extend(moved);
    }
}

/// One client's life. Panics where the server and the model differ.
fn live(client: &Client, home: &str, seed: u64, shared: &Mutex<Vec<Vec<u8>>>) {
    let mut random = Random(seed);
    let mut model = Model::default();
    client.ok(["mkdir", &format!("srv:{home}")]);
    model.0.insert(home.to_string(), Node::Dir);
    let mut dirs = vec![home.to_string()];
    for step in 0..STEPS {
        dirs.retain(|d| model.is_dir(d));
        let dir = dirs[random.below(dirs.len() as u64) as usize].clone();
        let path = format!("{dir}/{}", random.name());
        let context = format!("seed {seed}, step {step}, {path}");
        let remote = format!("srv:{path}");
        match random.below(9) {
            0 | 1 => {
                let content = random.content();
                std::fs::write(client.work().join("f"), &content).unwrap();
                let put = client.run(["put", "f", &remote]);
                // into a directory it goes under its own name
                let target = if model.is_dir(&path) { format!("{path}/f") } else { path };
                let expected = !model.is_dir(&target);
                assert_eq!(put.code == 0, expected, "{context}: {put:?}");
                if expected {
                    model.0.insert(target, Node::File(content));
                }
            }
            2 => {
                let made = client.run(["mkdir", &remote]);
                assert_eq!(made.code == 0, !model.0.contains_key(&path), "{context}: {made:?}");
                if made.code == 0 {
                    model.0.insert(path.clone(), Node::Dir);
                    dirs.push(path);
                }
            }
            3 => {
                let removed = client.run(["rm", &remote]);
                let expected = model.0.contains_key(&path) && model.children(&path).is_empty();
                // a directory wants -r, even when it is empty, as with rm
                let expected = expected && (removed.code == 0 || !model.is_dir(&path));
                assert_eq!(removed.code == 0, expected, "{context}: {removed:?}");
                if expected {
                    model.remove(&path);
                }
            }
            4 if random.below(2) == 0 => {
                let removed = client.run(["rm", "-r", &remote]);
                assert_eq!(removed.code == 0, model.0.contains_key(&path), "{context}: {removed:?}");
                model.remove(&path);
            }
            4 => {
                let to = format!("{home}/{}", random.name());
                let target = match (model.is_dir(&to), path.rsplit_once('/')) {
                    (true, Some((_, name))) => format!("{to}/{name}"),
                    _ => to.clone(),
                };
                let moved = client.run(["mv", &remote, &format!("srv:{to}")]);
                let into_itself = target.starts_with(&format!("{path}/"));
                let fits = match (model.0.get(&path), model.0.get(&target)) {
                    (None, _) => false,
                    (_, None) => true,
                    (Some(Node::Dir), Some(Node::Dir)) => target == path || model.children(&target).is_empty(),
                    (Some(Node::File(_)), Some(Node::File(_))) => true,
                    _ => false,
                };
                assert_eq!(moved.code == 0, fits && !into_itself, "{context} to {to}: {moved:?}");
                if moved.code == 0 && target != path {
                    model.rename(&path, &target);
                }
            }
            5 => {
                let _ = std::fs::remove_file(client.work().join("back"));
                let got = client.run(["get", &remote, "back"]);
                match model.0.get(&path) {
                    Some(Node::File(content)) => {
                        assert_eq!(got.code, 0, "{context}: {got:?}");
                        assert!(
                            std::fs::read(client.work().join("back")).unwrap() == *content,
                            "{context}"
                        );
                    }
                    _ => assert_ne!(got.code, 0, "{context}: {got:?}"),
                }
            }
            6 => {
                let listed = client.ok(["ls", "-a", &format!("srv:{dir}")]);
                let listed: Vec<String> = listed.lines().map(str::to_string).collect();
                assert_eq!(listed, model.children(&dir), "{context}");
            }
            7 => {
                // where all meet: whatever is there was put by somebody, whole
                let content = random.content();
                shared.lock().unwrap().push(content.clone());
                std::fs::write(client.work().join("s"), &content).unwrap();
                let name = format!("srv:shared/{}", random.name());
                let put = client.run(["put", "--wait=1m", "s", &name]);
                assert_eq!(put.code, 0, "{context}: {put:?}");
            }
            _ => {
                let _ = std::fs::remove_file(client.work().join("s2"));
                let got = client.run(["get", &format!("srv:shared/{}", random.name()), "s2"]);
                if got.code == 0 {
                    let found = std::fs::read(client.work().join("s2")).unwrap();
                    assert!(shared.lock().unwrap().contains(&found), "{context}: nobody put that");
                }
            }
        }
    }
    for (path, node) in &model.0 {
        if let Node::File(content) = node {
            let got = client.run(["get", "--checksum", &format!("srv:{path}"), "-"]);
            assert!(got.bytes == *content, "seed {seed}: {path} in the end");
        }
    }
}

#[test]
fn random_operations_of_several_clients_agree_with_a_model() {
    let server = Server::start();
    std::fs::create_dir(server.root.join("shared")).unwrap();
    let shared = Mutex::new(Vec::new());
    let seed = std::env::var("HAUL_TEST_SEED").ok().and_then(|s| s.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()) * 7919 + 1);
    std::thread::scope(|scope| {
        for n in 0..CLIENTS {
            let (server, shared) = (&server, &shared);
            scope.spawn(move || live(&server.client(), &format!("home-{n}"), seed + n, shared));
        }
    });
}
