//! The command line that allows what a guard prevented.

use std::ffi::OsString;

/// The command line of this process with another option in place of `--delete` or `--max-delete`,
/// for a shell.
pub fn allowing_command(option: &str) -> String {
    let name = option.split('=').next().unwrap_or(option);
    let mut args = std::env::args_os().skip(1);
    let mut words = vec!["haul".to_string()];
    let mut replaced = false;
    while let Some(arg) = args.next() {
        let text = arg.to_string_lossy();
        let is_it = text.split('=').next() == Some(name)
            || (name == "--delete" && text.starts_with("--del") && text != "--delete-excluded");
        if is_it && !replaced {
            replaced = true;
            words.push(option.to_string());
            if name == "--max-delete" && !text.contains('=') {
                args.next();
            }
        } else if !is_it {
            words.push(quoted(&arg));
        }
    }
    if !replaced {
        words.insert(words.len().min(2), option.to_string());
    }
    words.join(" ")
}

/// A word for a shell.
fn quoted(word: &OsString) -> String {
    let text = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+,./:@%".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.into_owned(),
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted(&OsString::from("nas:a/b")), "nas:a/b");
        assert_eq!(quoted(&OsString::from("it's")), "'it'\\''s'");
        assert_eq!(quoted(&OsString::from("")), "''");
    }
}
