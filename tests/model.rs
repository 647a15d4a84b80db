//! Random operations of several clients at once, against a model that is a map. Each client has a
//! directory of its own, whose exact content the model knows. All share one, in which every file
//! must be one that a client put.

use crate::support::tree::bytes;
use crate::support::{Client, Server};
use std::collections::BTreeMap;
use std::path::PathBuf;
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

/// An entry: a directory, or a file with this content.
#[derive(Clone, PartialEq, Debug)]
enum Node {
    Dir,
    File(Vec<u8>),
}

/// The expected content of a file system.
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

/// One client, and the expected content of its directory. Every step panics where the server and
/// the model differ.
struct Life<'a> {
    client: &'a Client,
    home: &'a str,
    /// The contents that all clients have put into the directory that they share.
    shared: &'a Mutex<Vec<Vec<u8>>>,
    random: Random,
    model: Model,
    dirs: Vec<String>,
    /// Directories can be renamed with what is in them.
    moves_trees: bool,
}

/// Where a step happens.
struct Place {
    dir: String,
    path: String,
    /// The path as an argument.
    remote: String,
    /// For the message when the step fails.
    context: String,
}

impl<'a> Life<'a> {
    fn begin(
        client: &'a Client,
        home: &'a str,
        seed: u64,
        shared: &'a Mutex<Vec<Vec<u8>>>,
    ) -> Life<'a> {
        let mut model = Model::default();
        client.ok(["mkdir", &format!("srv:{home}")]);
        model.0.insert(home.to_string(), Node::Dir);
        Life {
            client,
            home,
            shared,
            random: Random(seed),
            model,
            dirs: vec![home.to_string()],
            moves_trees: true,
        }
    }

    fn local(&self, name: &str) -> PathBuf {
        self.client.work().join(name)
    }

    fn step(&mut self, context: &str) {
        let model = &self.model;
        self.dirs.retain(|d| model.is_dir(d));
        let dir = self.dirs[self.random.below(self.dirs.len() as u64) as usize].clone();
        let path = format!("{dir}/{}", self.random.name());
        let place = Place {
            remote: format!("srv:{path}"),
            context: format!("{context}, {path}"),
            dir,
            path,
        };
        match self.random.below(9) {
            0 | 1 => self.put(place),
            2 => self.mkdir(place),
            3 => self.rm(&place),
            4 if self.random.below(2) == 0 => self.rm_recursive(&place),
            4 => self.mv(&place),
            5 => self.get(&place),
            6 => self.ls(&place),
            7 => self.put_shared(&place),
            _ => self.get_shared(&place),
        }
    }

    fn put(&mut self, place: Place) {
        let Place {
            path,
            remote,
            context,
            ..
        } = place;
        let content = self.random.content();
        std::fs::write(self.local("f"), &content).unwrap();
        let put = self.client.run(["put", "f", &remote]);
        // into a directory it goes under its own name
        let into = self.model.is_dir(&path);
        let target = if into { format!("{path}/f") } else { path };
        let expected = !self.model.is_dir(&target);
        assert_eq!(put.code == 0, expected, "{context}: {put:?}");
        if expected {
            self.model.0.insert(target, Node::File(content));
        }
    }

    fn mkdir(&mut self, place: Place) {
        let Place {
            path,
            remote,
            context,
            ..
        } = place;
        let made = self.client.run(["mkdir", &remote]);
        assert_eq!(made.code == 0, !self.model.0.contains_key(&path), "{context}: {made:?}");
        if made.code == 0 {
            self.model.0.insert(path.clone(), Node::Dir);
            self.dirs.push(path);
        }
    }

    fn rm(&mut self, place: &Place) {
        let (path, context) = (&place.path, &place.context);
        let removed = self.client.run(["rm", &place.remote]);
        let expected = self.model.0.contains_key(path) && self.model.children(path).is_empty();
        // a directory wants -r, even when it is empty, as with rm
        let expected = expected && (removed.code == 0 || !self.model.is_dir(path));
        assert_eq!(removed.code == 0, expected, "{context}: {removed:?}");
        if expected {
            self.model.remove(path);
        }
    }

    fn rm_recursive(&mut self, place: &Place) {
        let (path, context) = (&place.path, &place.context);
        let removed = self.client.run(["rm", "-r", &place.remote]);
        assert_eq!(removed.code == 0, self.model.0.contains_key(path), "{context}: {removed:?}");
        self.model.remove(path);
    }

    fn mv(&mut self, place: &Place) {
        let (path, context) = (&place.path, &place.context);
        let to = format!("{}/{}", self.home, self.random.name());
        let model = &mut self.model;
        let target = match (model.is_dir(&to), path.rsplit_once('/')) {
            (true, Some((_, name))) => format!("{to}/{name}"),
            _ => to.clone(),
        };
        let moved = self.client.run(["mv", &place.remote, &format!("srv:{to}")]);
        let into_itself = target.starts_with(&format!("{path}/"));
        let fits = match (model.0.get(path), model.0.get(&target)) {
            (None, _) => false,
            (_, None) => true,
            (Some(Node::Dir), Some(Node::Dir)) => {
                target == *path || model.children(&target).is_empty()
            }
            (Some(Node::File(_)), Some(Node::File(_))) => true,
            _ => false,
        };
        let refused = !self.moves_trees && !self.model.children(path).is_empty() && target != *path;
        let fits = fits && !refused;
        assert_eq!(moved.code == 0, fits && !into_itself, "{context} to {to}: {moved:?}");
        if moved.code == 0 && target != *path {
            self.model.rename(path, &target);
        }
    }

    fn get(&self, place: &Place) {
        let context = &place.context;
        let _ = std::fs::remove_file(self.local("back"));
        let got = self.client.run(["get", &place.remote, "back"]);
        match self.model.0.get(&place.path) {
            Some(Node::File(content)) => {
                assert_eq!(got.code, 0, "{context}: {got:?}");
                assert!(std::fs::read(self.local("back")).unwrap() == *content, "{context}");
            }
            _ => assert_ne!(got.code, 0, "{context}: {got:?}"),
        }
    }

    fn ls(&self, place: &Place) {
        let listed = self.client.ok(["ls", "-a", &format!("srv:{}", place.dir)]);
        let listed: Vec<String> = listed.lines().map(str::to_string).collect();
        assert_eq!(listed, self.model.children(&place.dir), "{}", place.context);
    }

    /// Puts a file where all clients meet.
    fn put_shared(&mut self, place: &Place) {
        let content = self.random.content();
        self.shared.lock().unwrap().push(content.clone());
        std::fs::write(self.local("s"), &content).unwrap();
        let name = format!("srv:shared/{}", self.random.name());
        let put = self.client.run(["put", "--wait=1m", "s", &name]);
        assert_eq!(put.code, 0, "{}: {put:?}", place.context);
    }

    /// A file where all clients meet was put by one of them, whole.
    fn get_shared(&mut self, place: &Place) {
        let _ = std::fs::remove_file(self.local("s2"));
        let name = format!("srv:shared/{}", self.random.name());
        if self.client.run(["get", &name, "s2"]).code == 0 {
            let found = std::fs::read(self.local("s2")).unwrap();
            let put = self.shared.lock().unwrap().contains(&found);
            assert!(put, "{}: no client put that", place.context);
        }
    }

    fn end(&self, seed: u64) {
        for (path, node) in &self.model.0 {
            if let Node::File(content) = node {
                let got = self.client.run(["get", "--checksum", &format!("srv:{path}"), "-"]);
                assert!(got.bytes == *content, "seed {seed}: {path} in the end");
            }
        }
    }
}

/// All steps of one client.
fn live(
    client: &Client,
    (home, moves_trees): (&str, bool),
    seed: u64,
    shared: &Mutex<Vec<Vec<u8>>>,
) {
    let mut life = Life::begin(client, home, seed, shared);
    life.moves_trees = moves_trees;
    for step in 0..STEPS {
        life.step(&format!("seed {seed}, step {step}"));
    }
    life.end(seed);
}

#[test]
fn random_operations_of_several_clients_agree_with_a_model() {
    let server = Server::start();
    live_at(&[&server], true);
}

/// The clients of servers that serve the same tree.
pub fn live_at(servers: &[&Server], moves_trees: bool) {
    servers[0].client().ok(["mkdir", "srv:shared"]);
    let shared = Mutex::new(Vec::new());
    let seed = std::env::var("HAUL_TEST_SEED").ok().and_then(|s| s.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()) * 7919 + 1);
    std::thread::scope(|scope| {
        for n in 0..CLIENTS {
            let (server, shared) = (servers[n as usize % servers.len()], &shared);
            scope.spawn(move || {
                let home = format!("home-{n}");
                live(&server.client(), (&home, moves_trees), seed + n, shared)
            });
        }
    });
}
