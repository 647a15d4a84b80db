//! The kinds of entries.

/// The kind of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A FIFO.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// Of no kind that this version knows: listed, never transferred.
    Other,
}

impl Kind {
    /// True of a FIFO, socket or device.
    pub fn is_special(self) -> bool {
        match self {
            Kind::Fifo | Kind::Socket | Kind::CharDevice | Kind::BlockDevice => true,
            Kind::File | Kind::Dir | Kind::Symlink | Kind::Other => false,
        }
    }
}
