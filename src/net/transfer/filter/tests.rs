//! Rules and patterns, case by case. `tests/filters.rs` compares them with the rsync binary.

use super::*;

fn filter(rules: &[&str]) -> Filter {
    let rules = rules.iter().map(|rule| Rule::parse(rule.as_bytes()).unwrap());
    Filter::new(rules.collect()).unwrap()
}

fn matches(pattern: &str, path: &str) -> bool {
    let (path, is_dir) = match path.strip_suffix('/') {
        Some(path) => (path, true),
        None => (path, false),
    };
    let rule = Rule::new(true, pattern.as_bytes()).unwrap();
    rule.matches(path.as_bytes(), is_dir)
}

#[test]
fn patterns_match_as_those_of_rsync() {
    for (pattern, yes, no) in [
        ("foo", "a/foo", "a/food"),
        ("/foo", "foo", "a/foo"),
        ("foo/", "a/foo/", "a/foo"),
        ("*.o", "a/b.o", "a.o/b"),
        ("a*c", "abbc", "ab/c"),
        ("a/b", "x/a/b", "xa/b"),
        ("a/*", "x/a/b", "a/b/c"),
        ("/a/*/c", "a/b/c", "x/a/b/c"),
        ("a/**", "x/a/b/c", "x/b"),
        ("**/c", "c", "xc"),
        ("**c", "a/bc", "cd"),
        ("/a/**/c", "a/b/b/c", "a/c"),
        ("a/***", "a/", "b/"),
        ("a/***", "x/a/b/c", "a"),
        ("?", "a/b", "ab"),
        ("a?c", "abc", "a/c"),
        ("[a-c]x", "bx", "dx"),
        ("[!a-c]x", "dx", "bx"),
        ("[]-]", "]", "a"),
        ("[[:digit:]_]*", "7a", "a7"),
        ("a[/]b", "", "a/b"),
        (r"\*\.o*", "*.o", "a.o"),
        (r"a\b", r"a\b", "ab"),
        ("[a", "", "a"),
    ] {
        assert!(yes.is_empty() || matches(pattern, yes), "{pattern} matches {yes}");
        assert!(!matches(pattern, no), "{pattern} does not match {no}");
    }
}

#[test]
fn no_pattern_takes_long() {
    let pattern = "*a".repeat(2000) + "b";
    let deep = "**a".repeat(1300) + "b";
    let path = "a".repeat(4000);
    let started = std::time::Instant::now();
    assert!(!matches(&pattern, &path) && !matches(&deep, &path));
    assert!(started.elapsed().as_secs() < 20);
}

#[test]
fn the_first_rule_that_matches_decides() {
    let rules = filter(&["+ keep.o", "- *.o", "- tmp/"]);
    assert_eq!(rules.judge(b"a/keep.o", false, None), Verdict::Take(Some(0)));
    assert!(matches!(rules.judge(b"a/x.o", false, None), Verdict::Skip(_)));
    assert_eq!(rules.judge(b"a/x.c", false, None), Verdict::Take(None));
    assert_eq!(rules.judge(b"tmp", false, None), Verdict::Take(None), "a file");
}

#[test]
fn an_excluded_directory_is_searched_where_something_in_it_may_be_included() {
    let rules = filter(&["+ *.jpg", "- *"]);
    assert_eq!(rules.judge(b"a", true, None), Verdict::Descend(1));
    assert_eq!(rules.judge(b"a/b", true, Some(1)), Verdict::Descend(1));
    assert_eq!(rules.judge(b"a/b/c.jpg", false, Some(1)), Verdict::Take(Some(0)));
    assert!(matches!(rules.judge(b"a/b/c.png", false, Some(1)), Verdict::Skip(_)));
    // what no rule matches is excluded with the directory
    let rules = filter(&["+ *.jpg", "- a"]);
    assert!(matches!(rules.judge(b"a/c.png", false, Some(1)), Verdict::Skip(_)));
    // a rule behind the one that excluded the directory does not reach into it
    let rules = filter(&["- a", "+ *.jpg"]);
    assert!(matches!(rules.judge(b"a", true, None), Verdict::Skip(_)));
    // only where the rule may lead
    let rules = filter(&["+ /a/b/*.jpg", "- *"]);
    assert_eq!(rules.judge(b"a", true, None), Verdict::Descend(1));
    assert_eq!(rules.judge(b"a/b", true, Some(1)), Verdict::Descend(1));
    assert!(matches!(rules.judge(b"a/b/c", true, Some(1)), Verdict::Skip(_)));
    assert!(matches!(rules.judge(b"b", true, None), Verdict::Skip(_)));
    // a directory that is included has its contents
    let rules = filter(&["+ a/b/", "- a/"]);
    assert_eq!(rules.judge(b"a/b", true, Some(1)), Verdict::Take(Some(0)));
}

#[test]
fn rules_survive_the_wire_and_are_bounded() {
    let rules = filter(&["+ a b\n", "- *.o"]);
    let reread = Filter::from_wire(&rules.to_wire()).unwrap();
    assert_eq!(reread.to_wire(), rules.to_wire());
    assert!(Filter::from_wire(b"").unwrap().is_empty());
    for bad in [&b"x"[..], b"+ ", b"- /\0", b"* a"] {
        assert!(Filter::from_wire(bad).is_err() || bad == b"- /\0", "{bad:?}");
    }
    let most = MAX_SENT_FILTER / 4;
    assert!(Filter::from_wire(&b"- a\0".repeat(most)).is_ok());
    assert_eq!(Filter::from_wire(&b"- a\0".repeat(most + 1)).unwrap_err(), BadRule::TooMany);
    let rules = vec![Rule::new(true, b"a").unwrap(); MAX_RULES + 1];
    assert_eq!(Filter::new(rules).unwrap_err(), BadRule::TooMany);
    assert_eq!(Rule::new(true, &[b'a'; 4097]).unwrap_err(), BadRule::TooLong);
}

#[test]
fn thousands_of_names_are_found_in_order() {
    let mut rules: Vec<String> = (0..10_000).map(|n| format!("- name{n}")).collect();
    rules.insert(5000, "+ name7*".into());
    let rules = filter(&rules.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(matches!(rules.judge(b"x/name70", false, None), Verdict::Skip(_)));
    assert_eq!(rules.judge(b"x/name7000", false, None), Verdict::Take(Some(5000)));
    assert!(matches!(rules.judge(b"x/name8000", false, None), Verdict::Skip(_)));
}
