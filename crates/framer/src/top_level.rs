//! Which objects a service takes as frames.

use rmp::Marker;

/// The types that may stand at the top level of a stream.
///
/// Most msgpack protocols send only arrays, or only maps. It pays to say so: every byte below 0x80 is a whole, valid
/// frame (a small integer), so without this rule a stray line of text is a burst of frames. Ask
/// [`allows`](TopLevel::allows) with the first byte of each frame, before feeding it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TopLevel {
    /// Any object.
    #[default]
    Any,
    /// Arrays only, as in MessagePack-RPC.
    Array,
    /// Maps only.
    Map,
    /// Arrays and maps.
    ArrayOrMap,
}

impl TopLevel {
    /// Whether a frame may begin with this byte.
    ///
    /// `Any` allows every byte, the reserved 0xc1 as well: refusing that is left to the [`Framer`](crate::Framer), whose
    /// error says what it is.
    #[inline]
    pub fn allows(self, first_byte: u8) -> bool {
        // Nearly everybody writes those with a number of elements in the type byte.
        let array = || is_fix_array(first_byte) || is_long_array(first_byte);
        let map = || is_fix_map(first_byte) || is_long_map(first_byte);
        match self {
            Self::Any => true,
            Self::Array => array(),
            Self::Map => map(),
            Self::ArrayOrMap => array() || map(),
        }
    }
}

const fn is_fix_array(byte: u8) -> bool {
    matches!(Marker::from_u8(byte), Marker::FixArray(_))
}

const fn is_fix_map(byte: u8) -> bool {
    matches!(Marker::from_u8(byte), Marker::FixMap(_))
}

#[cold]
const fn is_long_array(byte: u8) -> bool {
    matches!(Marker::from_u8(byte), Marker::Array16 | Marker::Array32)
}

#[cold]
const fn is_long_map(byte: u8) -> bool {
    matches!(Marker::from_u8(byte), Marker::Map16 | Marker::Map32)
}

#[cfg(test)]
mod tests {
    use super::TopLevel;

    #[test]
    fn every_first_byte() {
        for byte in 0..=u8::MAX {
            let array = matches!(byte, 0x90..=0x9f | 0xdc | 0xdd);
            let map = matches!(byte, 0x80..=0x8f | 0xde | 0xdf);
            assert!(TopLevel::Any.allows(byte));
            assert_eq!(TopLevel::Array.allows(byte), array, "{byte:#04x}");
            assert_eq!(TopLevel::Map.allows(byte), map, "{byte:#04x}");
            assert_eq!(
                TopLevel::ArrayOrMap.allows(byte),
                array || map,
                "{byte:#04x}"
            );
        }
    }
}
