//! Shell patterns: as a client sends them, and against paths.
#![no_main]

use haul::net::transfer::filter::glob::Glob;
use haul::store::RemotePath;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut parts = data.splitn(2, |byte| *byte == 0);
    let (pattern, path) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let Ok(glob) = Glob::parse(pattern) else { return };
    let Ok(path) = RemotePath::parse(path) else { return };
    let matched = glob.matches(&path);
    // a path that matches is reached name by name
    let (mut states, mut last) = (glob.start(), false);
    for name in path.components() {
        let step = glob.step(&states, &name);
        assert!(step.through_links.is_subset(&step.beneath));
        if let Some(names) = glob.names(&states) {
            assert!(names.contains(&name) || (!step.matched && step.beneath.is_empty()));
        }
        (states, last) = (step.beneath, step.matched);
    }
    assert_eq!(matched, last);
});
