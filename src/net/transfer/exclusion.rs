//! Why a transfer does not send an entry of its sources.

use crate::net::transfer::filter::ignore_files::IgnoredBy;
use crate::net::wire::proto::{self, exclusion::Reason};

/// Why an entry is not sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exclusion {
    /// The rule with this index excludes it.
    Rule(usize),
    /// A pattern of an ignore file does.
    IgnoreFile {
        /// The file, as the user knows it.
        file: Vec<u8>,
        /// Its line, from 1 on.
        line: u32,
        /// What the line says.
        pattern: String,
    },
    /// It has fewer bytes than are wanted.
    TooSmall,
    /// It has more.
    TooLarge,
    /// Another file system begins there.
    FileSystem,
    /// Nothing in the directory is sent.
    Empty,
    /// A peer did not say.
    Unknown,
}

impl Exclusion {
    /// By a pattern of an ignore file.
    pub fn ignored(by: IgnoredBy) -> Exclusion {
        Exclusion::IgnoreFile {
            file: by.file.as_bytes().to_vec(),
            line: by.line,
            pattern: by.pattern,
        }
    }

    /// As it travels.
    pub fn to_wire(&self, path: Vec<u8>) -> proto::Exclusion {
        let plain = |reason: Reason| proto::Exclusion {
            path: path.clone(),
            reason: reason.into(),
            ..Default::default()
        };
        match self {
            Exclusion::Rule(index) => proto::Exclusion {
                rule: u32::try_from(*index).unwrap_or(u32::MAX),
                ..plain(Reason::Rule)
            },
            Exclusion::IgnoreFile {
                file,
                line,
                pattern,
            } => proto::Exclusion {
                file: file.clone(),
                line: *line,
                pattern: pattern.clone(),
                ..plain(Reason::IgnoreFile)
            },
            Exclusion::TooSmall => plain(Reason::TooSmall),
            Exclusion::TooLarge => plain(Reason::TooLarge),
            Exclusion::FileSystem => plain(Reason::FileSystem),
            Exclusion::Empty => plain(Reason::Empty),
            Exclusion::Unknown => plain(Reason::Unspecified),
        }
    }

    /// As a peer sent it.
    pub fn from_wire(exclusion: proto::Exclusion) -> Exclusion {
        match exclusion.reason() {
            Reason::Rule => Exclusion::Rule(exclusion.rule as usize),
            Reason::IgnoreFile => Exclusion::IgnoreFile {
                file: exclusion.file,
                line: exclusion.line,
                pattern: exclusion.pattern,
            },
            Reason::TooSmall => Exclusion::TooSmall,
            Reason::TooLarge => Exclusion::TooLarge,
            Reason::FileSystem => Exclusion::FileSystem,
            Reason::Empty => Exclusion::Empty,
            Reason::Unspecified => Exclusion::Unknown,
        }
    }
}
