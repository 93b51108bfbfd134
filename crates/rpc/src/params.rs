//! From a parameter array to types.

use rmp::Marker;
use rmp_serde::decode::{Error, ReadRefReader};
use serde::Deserialize;
use serde::de::{self, Visitor};

use crate::fault::Fault;
use crate::names::{quoted, shortened};

/// Decodes a parameter array. See [`Router::method`](crate::Router::method) for the rules.
pub(crate) fn decode<'de, T: Deserialize<'de>>(params: &'de [u8]) -> Result<T, Error> {
    let mut rest = rmp::decode::Bytes::new(params);
    let count = rmp::decode::read_array_len(&mut rest)
        .map_err(|_| <Error as de::Error>::custom("they are not an array"))?;
    let mut params = Params {
        values: rmp_serde::Deserializer::from_read_ref(rest.remaining_slice()),
        count,
        next: 0,
        refused: None,
    };
    T::deserialize(&mut params)
}

/// The only parameter, undecoded; `None` if there are several or none.
#[inline]
pub(crate) fn only(params: &[u8]) -> Option<&[u8]> {
    // A fixarray, as nearly everybody writes it.
    if let [0x91, only @ ..] = params {
        return Some(only);
    }
    let mut rest = rmp::decode::Bytes::new(params);
    match rmp::decode::read_array_len(&mut rest) {
        Ok(1) => Some(rest.remaining_slice()),
        _ => None,
    }
}

/// The fault of a call whose parameters cannot be used.
pub(crate) fn wrong(method: &[u8], why: &Error) -> Fault {
    // What serde says can quote values, and those are the caller's.
    let why = shortened(&why.to_string());
    Fault::new(format!("wrong parameters for {}: {why}", quoted(method)))
}

/// The parameters as serde reads them: an array whose elements are numbered in errors, whose missing elements can be
/// `None`, and which stands for its element if it has but one. An only element that is nil is `None`, too.
struct Params<'de> {
    /// What is left of the elements.
    values: rmp_serde::Deserializer<ReadRefReader<'de, [u8]>>,
    count: u32,
    /// How many elements were read, or asked for in vain.
    next: u32,
    /// The last one that was asked for, if it is missing and cannot be `None`.
    refused: Option<u32>,
}

impl<'de> Params<'de> {
    /// All parameters, as a sequence. `due`: so many are asked for, and those that are missing are `None`.
    fn list<V: Visitor<'de>>(&mut self, visitor: V, due: Option<usize>) -> Result<V::Value, Error> {
        if let Some(due) = due
            && due < self.count as usize
        {
            return Err(self.too_many(due));
        }
        let result = visitor.visit_seq(List { params: self, due });
        // A visitor that was not given what it asked for last says how many elements are due, not which one is missing.
        // What else it says is its own.
        let value = match (result, self.refused) {
            (Err(error), Some(number)) if is_of_length(&error) => return Err(missing(number)),
            (result, _) => result?,
        };
        if self.next < self.count {
            return Err(self.too_many(self.next as usize));
        }
        Ok(value)
    }

    /// The only parameter.
    fn single(&mut self) -> Result<&mut rmp_serde::Deserializer<ReadRefReader<'de, [u8]>>, Error> {
        match self.count {
            0 => Err(missing(1)),
            1 => {
                self.next = 1;
                Ok(&mut self.values)
            }
            _ => Err(self.too_many(1)),
        }
    }

    fn too_many(&self, taken: usize) -> Error {
        let plural = if taken == 1 { "" } else { "s" };
        de::Error::custom(format_args!(
            "{} given, the method takes {taken} parameter{plural}",
            self.count
        ))
    }
}

/// Whether it was made by `de::Error::invalid_length`, for which this decoder has no variant of its own.
fn is_of_length(error: &Error) -> bool {
    matches!(error, Error::Syntax(why) if why.starts_with("invalid length "))
}

fn missing(number: u32) -> Error {
    de::Error::custom(format_args!("parameter {number} is missing"))
}

/// Says which parameter is wrong, and why in words rather than in markers. Where a number is `due`, it says that, too.
fn at(number: u32, due: Option<&str>, error: Error) -> Error {
    match error {
        Error::TypeMismatch(marker) => {
            let came = kind(marker);
            de::Error::custom(match due {
                Some(due) => {
                    format!("parameter {number}: {came} does not fit, {due} is due")
                }
                None => format!("parameter {number}: {came} does not fit"),
            })
        }
        Error::OutOfRange => {
            de::Error::custom(format_args!("parameter {number}: a number is out of range"))
        }
        // Its number is what is due in some places and what came in others.
        Error::LengthMismatch(_) => de::Error::custom(format_args!(
            "parameter {number}: a number of elements or bytes does not fit"
        )),
        error => de::Error::custom(format_args!("parameter {number}: {error}")),
    }
}

/// What the specification of msgpack calls the type of a marker.
fn kind(marker: Marker) -> &'static str {
    match marker {
        Marker::Null => "nil",
        Marker::True | Marker::False => "a boolean",
        Marker::FixPos(_)
        | Marker::FixNeg(_)
        | Marker::U8
        | Marker::U16
        | Marker::U32
        | Marker::U64
        | Marker::I8
        | Marker::I16
        | Marker::I32
        | Marker::I64 => "an integer",
        Marker::F32 | Marker::F64 => "a float",
        Marker::FixStr(_) | Marker::Str8 | Marker::Str16 | Marker::Str32 => "a str",
        Marker::Bin8 | Marker::Bin16 | Marker::Bin32 => "a bin",
        Marker::FixArray(_) | Marker::Array16 | Marker::Array32 => "an array",
        Marker::FixMap(_) | Marker::Map16 | Marker::Map32 => "a map",
        _ => "an extension type",
    }
}

/// The types of which the decoder's error says only what came. Of others it says itself what is due.
macro_rules! numbers {
    ($forward:ident) => {
        $forward! { Some("an integer");
            deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
            deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
        }
        $forward! { Some("a number"); deserialize_f32 deserialize_f64 }
    };
}

/// A type that takes the only parameter.
macro_rules! single {
    ($due:expr; $($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            let single = self.single()?;
            single.$method(visitor).map_err(|error| at(1, $due, error))
        }
    )*};
}

impl<'de> de::Deserializer<'de> for &mut Params<'de> {
    type Error = Error;

    numbers! { single }
    single! { None;
        deserialize_bool deserialize_char deserialize_str deserialize_string deserialize_bytes deserialize_byte_buf
        deserialize_map deserialize_identifier
    }

    fn is_human_readable(&self) -> bool {
        false
    }

    // A type that takes whatever comes takes the only parameter, as any type does that takes one; it is also the way of
    // those that read ahead, such as enums that are tagged or not.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.count {
            1 => self
                .single()?
                .deserialize_any(visitor)
                .map_err(|error| at(1, None, error)),
            _ => self.list(visitor, None),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.list(visitor, None)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.list(visitor, None)
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.list(visitor, Some(length))
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.list(visitor, Some(length))
    }

    // Without a number of fields that are due, so that #[serde(default)] supplies those that are missing.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.list(visitor, None)
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.count {
            0 => visitor.visit_unit(),
            _ => Err(self.too_many(0)),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        // Nothing was read before, so these are the bytes of the first element.
        match (self.count, self.values.get_ref().first()) {
            (0, _) => visitor.visit_none(),
            (1, Some(first)) if *first == Marker::Null.to_u8() => {
                self.next = 1;
                visitor.visit_none()
            }
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        if name == rmp_serde::MSGPACK_EXT_STRUCT_NAME {
            return self
                .single()?
                .deserialize_newtype_struct(name, visitor)
                .map_err(|error| at(1, None, error));
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.single()?
            .deserialize_enum(name, variants, visitor)
            .map_err(|error| at(1, None, error))
    }
}

struct List<'a, 'de> {
    params: &'a mut Params<'de>,
    due: Option<usize>,
}

impl<'de> de::SeqAccess<'de> for List<'_, 'de> {
    type Error = Error;

    fn next_element_seed<T: de::DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        let number = self.params.next + 1;
        if self.params.next < self.params.count {
            self.params.next = number;
            let mut due = None;
            let element = Element {
                value: &mut self.params.values,
                due: &mut due,
            };
            let value = seed.deserialize(element).map(Some);
            return value.map_err(|error| at(number, due, error));
        }
        match self.due {
            Some(due) if self.params.next < due as u32 => {
                self.params.next = number;
                // What cannot do without a value may have a default, which only serde knows.
                let value = seed.deserialize(Missing).ok();
                self.params.refused = value.is_none().then_some(number);
                Ok(value)
            }
            _ => Ok(None),
        }
    }

    fn size_hint(&self) -> Option<usize> {
        let left = self.params.count.saturating_sub(self.params.next) as usize;
        // A count is the caller's claim about an array that the framer has found whole, but the elements may be far
        // larger in memory than on the wire.
        Some(left.min(1024))
    }
}

/// One of several parameters, of which an error says only what came: here it is noted what is due, if that is a number.
struct Element<'a, 'de> {
    value: &'a mut rmp_serde::Deserializer<ReadRefReader<'de, [u8]>>,
    due: &'a mut Option<&'static str>,
}

macro_rules! element {
    ($due:expr; $($method:ident)*) => {$(
        #[inline]
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            *self.due = $due;
            self.value.$method(visitor)
        }
    )*};
}

impl<'de> de::Deserializer<'de> for Element<'_, 'de> {
    type Error = Error;

    numbers! { element }
    element! { None;
        deserialize_any deserialize_bool deserialize_char deserialize_str deserialize_string deserialize_bytes
        deserialize_byte_buf deserialize_option deserialize_unit deserialize_seq deserialize_map
        deserialize_identifier deserialize_ignored_any
    }

    fn is_human_readable(&self) -> bool {
        self.value.is_human_readable()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.value.deserialize_unit_struct(name, visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        if name == rmp_serde::MSGPACK_EXT_STRUCT_NAME {
            return self.value.deserialize_newtype_struct(name, visitor);
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.value.deserialize_tuple(length, visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.value.deserialize_tuple_struct(name, length, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.value.deserialize_struct(name, fields, visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.value.deserialize_enum(name, variants, visitor)
    }
}

/// A parameter that was not given.
struct Missing;

impl<'de> de::Deserializer<'de> for Missing {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(de::Error::custom("missing"))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_none()
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}
