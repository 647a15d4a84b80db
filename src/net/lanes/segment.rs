//! Segments, of which a carrier's bytes consist: a header of eight bytes, and for data its bytes.
//!
//! ```text
//!  0     1     2     3     4     5     6     7
//! ┌─────┬─────┬───────────┬───────────────────────┐
//! │kind │ 0   │ lane      │ value                 │   network byte order
//! └─────┴─────┴───────────┴───────────────────────┘
//! ```

use crate::net::wire::Malformed;

/// Length of a header, in bytes.
pub const HEADER: usize = 8;
/// The most bytes of data in a segment.
pub const MOST_DATA: usize = 64 << 10;

/// What a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The client opens the lane. The value is 0 for a control connection, 1 for a data connection.
    Open,
    /// As many bytes of the lane as the value says follow.
    Data,
    /// The sender of this segment takes as many further bytes as the value says.
    Credit,
    /// No more bytes of the lane follow from this side.
    End,
    /// This side neither sends nor takes anything of the lane any more.
    Close,
}

/// The header of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What it is.
    pub kind: Kind,
    /// The lane that it belongs to.
    pub lane: u16,
    /// What the kind says.
    pub value: u32,
}

impl Header {
    /// Its bytes.
    pub fn encode(self) -> [u8; HEADER] {
        let kind = match self.kind {
            Kind::Open => 1,
            Kind::Data => 2,
            Kind::Credit => 3,
            Kind::End => 4,
            Kind::Close => 5,
        };
        let [high, low] = self.lane.to_be_bytes();
        let [a, b, c, d] = self.value.to_be_bytes();
        [kind, 0, high, low, a, b, c, d]
    }

    /// Reads a header.
    ///
    /// # Errors
    /// For an unknown kind, and for more data than a segment may have.
    pub fn decode(bytes: [u8; HEADER]) -> Result<Header, Malformed> {
        let [kind, zero, high, low, a, b, c, d] = bytes;
        let kind = match kind {
            1 => Kind::Open,
            2 => Kind::Data,
            3 => Kind::Credit,
            4 => Kind::End,
            5 => Kind::Close,
            _ => return Err(Malformed("the kind of a segment")),
        };
        let value = u32::from_be_bytes([a, b, c, d]);
        if zero != 0 || (kind == Kind::Data && value as usize > MOST_DATA) {
            return Err(Malformed("the header of a segment"));
        }
        Ok(Header {
            kind,
            lane: u16::from_be_bytes([high, low]),
            value,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_have_these_bytes() {
        let header = Header {
            kind: Kind::Data,
            lane: 0x0102,
            value: 0x1000,
        };
        assert_eq!(header.encode(), [2, 0, 1, 2, 0, 0, 0x10, 0]);
        for kind in [Kind::Open, Kind::Data, Kind::Credit, Kind::End, Kind::Close] {
            let header = Header { kind, ..header };
            assert_eq!(Header::decode(header.encode()).unwrap(), header);
        }
    }

    #[test]
    fn what_is_no_header_is_refused() {
        assert!(Header::decode([0, 0, 0, 1, 0, 0, 0, 0]).is_err());
        assert!(Header::decode([6, 0, 0, 1, 0, 0, 0, 0]).is_err());
        assert!(Header::decode([2, 1, 0, 1, 0, 0, 0, 0]).is_err());
        assert!(Header::decode([2, 0, 0, 1, 0, 1, 0, 1]).is_err(), "more than 64 KiB");
        assert!(Header::decode([3, 0, 0, 1, 0, 1, 0, 1]).is_ok(), "credit has no such bound");
    }
}
