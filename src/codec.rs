//! How values cross the border to a closure or a plugin: serde's data model in its flattest form.
//!
//! Integers are little-endian and have their full width, lengths and variants are `u32`s, and nothing says of what type it
//! is. What is decoded may come from the payload: no length is believed, and neither the bytes, nor the elements (which may
//! be of no size), nor the depth of nesting goes beyond a limit. The ready-made formats have all of the first, but not both of
//! the others, or take `Some(())` for `None`.

use std::fmt;

use serde::de::{
    DeserializeOwned, DeserializeSeed, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess, Visitor,
};
use serde::ser::Serialize;
use serde::{Deserializer, Serializer, de, ser};

/// How deep values may be nested, so that what a payload has made up does not use up the host's stack.
const DEEPEST: u32 = 128;

/// Why a value could not be encoded or decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trouble {
    TooLarge,
    /// What the type says, or what is wrong with the bytes.
    Other(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge => f.write_str("it is too large"),
            Self::Other(reason) => f.write_str(reason),
        }
    }
}
impl std::error::Error for Trouble {}
impl ser::Error for Trouble {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::Other(message.to_string())
    }
}
impl de::Error for Trouble {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::Other(message.to_string())
    }
}

pub(crate) type Result<T> = std::result::Result<T, Trouble>;

fn malformed<T>(reason: &str) -> Result<T> {
    Err(Trouble::Other(reason.into()))
}

/// The value in at most `limit` bytes, with at most as many elements.
pub(crate) fn encode<T: Serialize + ?Sized>(value: &T, limit: usize) -> Result<Vec<u8>> {
    let mut encoder = Encoder { bytes: vec![], limit, elements: limit, depth: 0 };
    value.serialize(&mut encoder)?;
    Ok(encoder.bytes)
}

/// The value that the bytes are; with at most `limit` elements.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<T> {
    let mut decoder = Decoder { rest: bytes, elements: limit, depth: 0 };
    let value = T::deserialize(&mut decoder)?;
    if decoder.rest.is_empty() { Ok(value) } else { malformed("there are bytes behind the value") }
}

struct Encoder {
    bytes: Vec<u8>,
    limit: usize,
    elements: usize,
    depth: u32,
}

impl Encoder {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.len() > self.limit - self.bytes.len() {
            return Err(Trouble::TooLarge);
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }
    fn len(&mut self, len: usize) -> Result<()> {
        let len = u32::try_from(len).map_err(|_| Trouble::TooLarge)?;
        self.put(&len.to_le_bytes())
    }
    fn element(&mut self) -> Result<()> {
        self.elements = self.elements.checked_sub(1).ok_or(Trouble::TooLarge)?;
        Ok(())
    }
    fn deeper(&mut self) -> Result<()> {
        self.depth += 1;
        if self.depth > DEEPEST { malformed("it is nested too deep") } else { Ok(()) }
    }
    fn nested<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        self.deeper()?;
        value.serialize(&mut *self)?;
        self.depth -= 1;
        Ok(())
    }
}

/// A sequence or a map on its way, whose length is written when it is known.
struct Counted<'a> {
    encoder: &'a mut Encoder,
    at: usize,
    count: usize,
}

impl<'a> Counted<'a> {
    fn begin(encoder: &'a mut Encoder) -> Result<Self> {
        encoder.deeper()?;
        let at = encoder.bytes.len();
        encoder.len(0)?;
        Ok(Self { encoder, at, count: 0 })
    }
    fn finish(self) -> Result<()> {
        let count = u32::try_from(self.count).map_err(|_| Trouble::TooLarge)?;
        if let Some(place) = self.encoder.bytes.get_mut(self.at..).and_then(|rest| rest.first_chunk_mut()) {
            *place = count.to_le_bytes();
        }
        self.encoder.depth -= 1;
        Ok(())
    }
}

/// Fields one behind the other.
struct Fields<'a>(&'a mut Encoder);

impl Fields<'_> {
    fn field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        value.serialize(&mut *self.0)
    }
    fn finish(self) {
        self.0.depth -= 1;
    }
}

macro_rules! numbers {
    ($($serialize:ident $deserialize:ident $visit:ident $type:ty,)*) => {
        numbers!(@ser $($serialize $type,)*);
        numbers!(@de $($deserialize $visit $type,)*);
    };
    (@ser $($serialize:ident $type:ty,)*) => {
        impl<'a> Serializer for &'a mut Encoder {
            type Ok = ();
            type Error = Trouble;
            type SerializeSeq = Counted<'a>;
            type SerializeTuple = Fields<'a>;
            type SerializeTupleStruct = Fields<'a>;
            type SerializeTupleVariant = Fields<'a>;
            type SerializeMap = Counted<'a>;
            type SerializeStruct = Fields<'a>;
            type SerializeStructVariant = Fields<'a>;

            $(fn $serialize(self, value: $type) -> Result<()> { self.put(&value.to_le_bytes()) })*

            fn is_human_readable(&self) -> bool {
                false
            }
            fn serialize_bool(self, value: bool) -> Result<()> {
                self.put(&[u8::from(value)])
            }
            fn serialize_char(self, value: char) -> Result<()> {
                self.serialize_u32(value.into())
            }
            fn serialize_str(self, value: &str) -> Result<()> {
                self.serialize_bytes(value.as_bytes())
            }
            fn serialize_bytes(self, value: &[u8]) -> Result<()> {
                self.len(value.len())?;
                self.put(value)
            }
            fn serialize_none(self) -> Result<()> {
                self.put(&[0])
            }
            fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<()> {
                self.put(&[1])?;
                self.nested(value)
            }
            fn serialize_unit(self) -> Result<()> {
                Ok(())
            }
            fn serialize_unit_struct(self, _: &'static str) -> Result<()> {
                Ok(())
            }
            fn serialize_unit_variant(self, _: &'static str, index: u32, _: &'static str) -> Result<()> {
                self.nested(&index)
            }
            fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<()> {
                self.nested(value)
            }
            fn serialize_newtype_variant<T: Serialize + ?Sized>(
                self,
                _: &'static str,
                index: u32,
                _: &'static str,
                value: &T,
            ) -> Result<()> {
                self.serialize_u32(index)?;
                self.nested(value)
            }
            fn serialize_seq(self, _: Option<usize>) -> Result<Counted<'a>> {
                Counted::begin(self)
            }
            fn serialize_map(self, _: Option<usize>) -> Result<Counted<'a>> {
                Counted::begin(self)
            }
            fn serialize_tuple(self, _: usize) -> Result<Fields<'a>> {
                self.deeper()?;
                Ok(Fields(self))
            }
            fn serialize_tuple_struct(self, _: &'static str, len: usize) -> Result<Fields<'a>> {
                self.serialize_tuple(len)
            }
            fn serialize_struct(self, _: &'static str, len: usize) -> Result<Fields<'a>> {
                self.serialize_tuple(len)
            }
            fn serialize_tuple_variant(
                self,
                _: &'static str,
                index: u32,
                _: &'static str,
                len: usize,
            ) -> Result<Fields<'a>> {
                self.put(&index.to_le_bytes())?;
                self.serialize_tuple(len)
            }
            fn serialize_struct_variant(
                self,
                _: &'static str,
                index: u32,
                _: &'static str,
                len: usize,
            ) -> Result<Fields<'a>> {
                self.put(&index.to_le_bytes())?;
                self.serialize_tuple(len)
            }
        }
    };
    (@de $($deserialize:ident $visit:ident $type:ty,)*) => {
        impl<'de> Deserializer<'de> for &mut Decoder<'de> {
            type Error = Trouble;

            $(fn $deserialize<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
                visitor.$visit(<$type>::from_le_bytes(self.array()?))
            })*

            fn is_human_readable(&self) -> bool {
                false
            }
            fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value> {
                malformed("its type does not say what it is made of (an untagged enum, or the like)")
            }
            fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
                self.deserialize_any(visitor)
            }
            fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
                let value = self.flag()?;
                visitor.visit_bool(value)
            }
            fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
                match char::from_u32(self.number()?) {
                    Some(value) => visitor.visit_char(value),
                    None => malformed("no character has that number"),
                }
            }
            fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
                match std::str::from_utf8(self.blob()?) {
                    Ok(text) => visitor.visit_borrowed_str(text),
                    Err(_) => malformed("it is not UTF-8"),
                }
            }
            fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
                self.deserialize_str(visitor)
            }
            fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
                visitor.visit_borrowed_bytes(self.blob()?)
            }
            fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
                self.deserialize_bytes(visitor)
            }
            fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
                if self.flag()? { self.nested(|decoder| visitor.visit_some(decoder)) } else { visitor.visit_none() }
            }
            fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
                visitor.visit_unit()
            }
            fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value> {
                visitor.visit_unit()
            }
            fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value> {
                self.nested(|decoder| visitor.visit_newtype_struct(decoder))
            }
            fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
                let left = self.count()?;
                self.nested(|decoder| visitor.visit_seq(Elements { decoder, left, counted: true }))
            }
            fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
                let left = self.count()?;
                self.nested(|decoder| visitor.visit_map(Elements { decoder, left, counted: true }))
            }
            fn deserialize_tuple<V: Visitor<'de>>(self, left: usize, visitor: V) -> Result<V::Value> {
                self.nested(|decoder| visitor.visit_seq(Elements { decoder, left, counted: false }))
            }
            fn deserialize_tuple_struct<V: Visitor<'de>>(
                self,
                _: &'static str,
                left: usize,
                visitor: V,
            ) -> Result<V::Value> {
                self.deserialize_tuple(left, visitor)
            }
            fn deserialize_struct<V: Visitor<'de>>(
                self,
                _: &'static str,
                fields: &'static [&'static str],
                visitor: V,
            ) -> Result<V::Value> {
                self.deserialize_tuple(fields.len(), visitor)
            }
            fn deserialize_enum<V: Visitor<'de>>(
                self,
                _: &'static str,
                _: &'static [&'static str],
                visitor: V,
            ) -> Result<V::Value> {
                self.nested(|decoder| visitor.visit_enum(Variant(decoder)))
            }
            fn deserialize_identifier<V: Visitor<'de>>(self, _: V) -> Result<V::Value> {
                malformed("fields have no names here")
            }
        }
    };
}

numbers! {
    serialize_u8 deserialize_u8 visit_u8 u8,
    serialize_u16 deserialize_u16 visit_u16 u16,
    serialize_u32 deserialize_u32 visit_u32 u32,
    serialize_u64 deserialize_u64 visit_u64 u64,
    serialize_u128 deserialize_u128 visit_u128 u128,
    serialize_i8 deserialize_i8 visit_i8 i8,
    serialize_i16 deserialize_i16 visit_i16 i16,
    serialize_i32 deserialize_i32 visit_i32 i32,
    serialize_i64 deserialize_i64 visit_i64 i64,
    serialize_i128 deserialize_i128 visit_i128 i128,
    serialize_f32 deserialize_f32 visit_f32 f32,
    serialize_f64 deserialize_f64 visit_f64 f64,
}

impl ser::SerializeSeq for Counted<'_> {
    type Ok = ();
    type Error = Trouble;
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        self.encoder.element()?;
        self.count += 1;
        value.serialize(&mut *self.encoder)
    }
    fn end(self) -> Result<()> {
        self.finish()
    }
}

impl ser::SerializeMap for Counted<'_> {
    type Ok = ();
    type Error = Trouble;
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<()> {
        self.encoder.element()?;
        self.count += 1;
        key.serialize(&mut *self.encoder)
    }
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        value.serialize(&mut *self.encoder)
    }
    fn end(self) -> Result<()> {
        self.finish()
    }
}

macro_rules! fields {
    ($($trait:ident $method:ident $($name:ty)?,)*) => {$(
        impl ser::$trait for Fields<'_> {
            type Ok = ();
            type Error = Trouble;
            fn $method<T: Serialize + ?Sized>(&mut self, $(_: $name,)? value: &T) -> Result<()> {
                self.field(value)
            }
            fn end(self) -> Result<()> {
                self.finish();
                Ok(())
            }
        }
    )*};
}
fields! {
    SerializeTuple serialize_element,
    SerializeTupleStruct serialize_field,
    SerializeTupleVariant serialize_field,
    SerializeStruct serialize_field &'static str,
    SerializeStructVariant serialize_field &'static str,
}

struct Decoder<'de> {
    rest: &'de [u8],
    elements: usize,
    depth: u32,
}

impl<'de> Decoder<'de> {
    fn take(&mut self, len: usize) -> Result<&'de [u8]> {
        let Some((head, tail)) = self.rest.split_at_checked(len) else { return malformed("it ends too early") };
        self.rest = tail;
        Ok(head)
    }
    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        match self.take(N)?.first_chunk() {
            Some(array) => Ok(*array),
            None => malformed("it ends too early"),
        }
    }
    fn number(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }
    fn flag(&mut self) -> Result<bool> {
        match self.array()? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => malformed("neither true nor false"),
        }
    }
    fn blob(&mut self) -> Result<&'de [u8]> {
        let len = self.number()?;
        self.take(usize::try_from(len).unwrap_or(usize::MAX))
    }
    fn count(&mut self) -> Result<usize> {
        let count = usize::try_from(self.number()?).unwrap_or(usize::MAX);
        self.elements = self.elements.checked_sub(count).ok_or(Trouble::TooLarge)?;
        Ok(count)
    }
    fn nested<T>(&mut self, body: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return malformed("it is nested too deep");
        }
        let value = body(self)?;
        self.depth -= 1;
        Ok(value)
    }
}

/// What is left of a sequence, a map or a tuple.
struct Elements<'a, 'de> {
    decoder: &'a mut Decoder<'de>,
    left: usize,
    /// By the bytes, and not by the type.
    counted: bool,
}

impl Elements<'_, '_> {
    fn next(&mut self) -> bool {
        let some = self.left > 0;
        self.left = self.left.saturating_sub(1);
        some
    }
    /// What to make room for: not more than the bytes that are left can be.
    fn hint(&self) -> usize {
        if self.counted { self.left.min(self.decoder.rest.len()) } else { self.left }
    }
}

impl<'de> SeqAccess<'de> for Elements<'_, 'de> {
    type Error = Trouble;
    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>> {
        if self.next() { seed.deserialize(&mut *self.decoder).map(Some) } else { Ok(None) }
    }
    fn size_hint(&self) -> Option<usize> {
        Some(self.hint())
    }
}

impl<'de> MapAccess<'de> for Elements<'_, 'de> {
    type Error = Trouble;
    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>> {
        if self.next() { seed.deserialize(&mut *self.decoder).map(Some) } else { Ok(None) }
    }
    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value> {
        seed.deserialize(&mut *self.decoder)
    }
    fn size_hint(&self) -> Option<usize> {
        Some(self.hint())
    }
}

struct Variant<'a, 'de>(&'a mut Decoder<'de>);

impl<'de> EnumAccess<'de> for Variant<'_, 'de> {
    type Error = Trouble;
    type Variant = Self;
    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self)> {
        let index = self.0.number()?;
        let value = seed.deserialize(IntoDeserializer::<Trouble>::into_deserializer(index))?;
        Ok((value, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_, 'de> {
    type Error = Trouble;
    fn unit_variant(self) -> Result<()> {
        Ok(())
    }
    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value> {
        seed.deserialize(self.0)
    }
    fn tuple_variant<V: Visitor<'de>>(self, left: usize, visitor: V) -> Result<V::Value> {
        // The enum is the one level that the encoder counts.
        visitor.visit_seq(Elements { decoder: self.0, left, counted: false })
    }
    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value> {
        self.tuple_variant(fields.len(), visitor)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    enum Shape {
        Unit,
        Newtype(u128),
        Tuple(i8, String),
        Struct { a: Option<()>, b: Option<Option<u8>>, c: (char, f64) },
        Nested(Box<Shape>),
        Nothing(Vec<()>),
    }

    fn round<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: T) {
        let bytes = encode(&value, 1 << 16).unwrap();
        assert_eq!(decode::<T>(&bytes, 1 << 16).unwrap(), value);
        for len in 0..bytes.len() {
            assert!(decode::<T>(&bytes[..len], 1 << 16).is_err(), "{value:?} cut to {len}");
        }
        assert!(decode::<T>(&[&bytes[..], &[0]].concat(), 1 << 16).is_err());
    }

    #[test]
    fn there_and_back() {
        round(Shape::Unit);
        round(Shape::Newtype(u128::MAX - 5));
        round(Shape::Tuple(-3, "grüße".into()));
        for (a, b) in [(None, None), (Some(()), Some(None)), (None, Some(Some(7)))] {
            round(Shape::Struct { a, b, c: ('ß', f64::NEG_INFINITY) });
        }
        round(Shape::Nested(Box::new(Shape::Nothing(vec![(); 9]))));
        round(BTreeMap::from([(1u8, vec![true]), (2, vec![])]));
        round(HashMap::from([("a".to_owned(), [1u64; 4])]));
        round(Ok::<(), String>(()));
        round(vec![1u8; 1000]);
    }

    #[test]
    fn nothing_goes_beyond_its_limit() {
        assert_eq!(encode(&[0u64; 2], 15), Err(Trouble::TooLarge));
        assert!(encode(&[0u64; 2], 16).is_ok());
        // Elements of no size: as many as bytes.
        assert_eq!(encode(&vec![(); 101], 100), Err(Trouble::TooLarge));
        assert_eq!(decode::<Vec<()>>(&u32::MAX.to_le_bytes(), 100), Err(Trouble::TooLarge));
        assert_eq!(decode::<Vec<Vec<()>>>(&[2, 0, 0, 0, 90, 0, 0, 0, 90, 0, 0, 0], 100), Err(Trouble::TooLarge));
        // A length that nothing stands behind makes no room.
        assert!(decode::<Vec<u64>>(&[0xff, 0xff, 0, 0], 1 << 20).is_err());
        assert!(decode::<String>(&u32::MAX.to_le_bytes(), 1 << 20).is_err());
        // Whatever can be encoded can be decoded: both count the same levels.
        for end in [Shape::Unit, Shape::Newtype(1), Shape::Tuple(1, "".into())] {
            let deep = (1..DEEPEST).fold(end, |inner, _| Shape::Nested(Box::new(inner)));
            let bytes = encode(&deep, 1 << 20);
            let decoded = bytes.and_then(|bytes| decode::<Shape>(&bytes, 1 << 20));
            assert_eq!(decoded, Ok(deep));
        }
        let deep = (0..DEEPEST).fold(Shape::Unit, |inner, _| Shape::Nested(Box::new(inner)));
        assert!(matches!(encode(&deep, 1 << 20), Err(Trouble::Other(reason)) if reason.contains("deep")));
        let bytes = [4u8, 0, 0, 0].repeat(100_000);
        assert!(matches!(decode::<Shape>(&bytes, 1 << 20), Err(Trouble::Other(reason)) if reason.contains("deep")));
    }

    #[test]
    fn what_is_no_value_is_refused() {
        assert!(decode::<bool>(&[2], 1).is_err());
        assert!(decode::<Option<u8>>(&[3, 0], 1).is_err());
        assert!(decode::<char>(&0xd800u32.to_le_bytes(), 1).is_err());
        assert!(decode::<String>(&[1, 0, 0, 0, 0xff], 10).is_err());
        assert!(decode::<Shape>(&[9, 0, 0, 0], 10).is_err());
        let mut state = 1u64;
        for _ in 0..20_000 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let bytes = [(state % 6).to_le_bytes(), state.to_le_bytes(), (state >> 32).to_le_bytes()].concat();
            let _ = decode::<Shape>(&bytes, 1000);
            let _ = decode::<HashMap<String, Vec<Shape>>>(&bytes[4..], 1000);
        }
    }
}
