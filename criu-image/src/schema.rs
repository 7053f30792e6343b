//! CRIU's schema as tables, made from `proto/*.proto` by the build script.
//!
//! [`crate::wire`] and [`crate::Image`] do without: they keep what they do not know. The schema gives fields their names,
//! for JSON and for people.

/// A message type.
#[derive(Debug)]
pub struct MessageDef {
    /// Its name in the schema.
    pub name: &'static str,
    /// Its fields, sorted by number.
    pub fields: &'static [FieldDef],
}

/// A field of a message type.
#[derive(Debug)]
pub struct FieldDef {
    /// Its number on the wire.
    pub number: u32,
    /// Its name.
    pub name: &'static str,
    /// What it holds.
    pub typ: Type,
    /// How often it is there.
    pub label: Label,
    /// How people like to see it.
    pub style: Style,
}

/// How often a field is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Label {
    /// Once.
    Required,
    /// At most once.
    Optional,
    /// Any number of times.
    Repeated,
}

/// What a field holds, in protobuf's terms.
#[derive(Debug, Clone, Copy)]
pub enum Type {
    /// `uint32`.
    U32,
    /// `uint64`.
    U64,
    /// `int32`: negative numbers take ten bytes.
    I32,
    /// `int64`.
    I64,
    /// `sint32`, zig-zag encoded.
    S32,
    /// `sint64`, zig-zag encoded.
    S64,
    /// `fixed32`.
    Fixed32,
    /// `fixed64`.
    Fixed64,
    /// `bool`.
    Bool,
    /// `string`; CRIU does not check that it is UTF-8.
    String,
    /// `bytes`.
    Bytes,
    /// An enum.
    Enum(&'static EnumDef),
    /// A nested message.
    Message(&'static MessageDef),
}

/// How people like to see a field: CRIU's own field options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// As it is.
    Plain,
    /// Hexadecimal.
    Hex,
    /// `major:minor`, 12 and 20 bits.
    Device,
    /// `major:minor` in the C library's encoding.
    OldDevice,
    /// An IPv4 or IPv6 address in network byte order.
    Address,
    /// Names of flags, of the set that is named here.
    Flags(&'static str),
    /// A name for the number, of the dictionary that is named here.
    Dict(&'static str),
    /// Quoted-printable text.
    UnixName,
}

/// An enum type.
#[derive(Debug)]
pub struct EnumDef {
    /// Numbers and names.
    pub values: &'static [(i32, &'static str)],
}

impl EnumDef {
    /// The enum type of this name; one inside a message is called `message.enum`.
    pub fn of(name: &str) -> Option<&'static Self> {
        ENUMS
            .binary_search_by_key(&name, |(known, _)| known)
            .ok()
            .map(|at| ENUMS[at].1)
    }

    /// The name of a number.
    pub fn name(&self, number: i32) -> Option<&'static str> {
        self.values
            .iter()
            .find(|(value, _)| *value == number)
            .map(|(_, name)| *name)
    }

    /// The number of a name.
    pub fn number(&self, name: &str) -> Option<i32> {
        self.values
            .iter()
            .find(|(_, value)| *value == name)
            .map(|(number, _)| *number)
    }
}

impl MessageDef {
    /// The message type of this name.
    pub fn of(name: &str) -> Option<&'static Self> {
        MESSAGES
            .binary_search_by_key(&name, |message| message.name)
            .ok()
            .map(|at| MESSAGES[at])
    }

    /// The field of this number.
    pub fn field(&self, number: u32) -> Option<&'static FieldDef> {
        self.fields
            .binary_search_by_key(&number, |field| field.number)
            .ok()
            .map(|at| &self.fields[at])
    }

    /// The field of this name.
    pub fn field_named(&self, name: &str) -> Option<&'static FieldDef> {
        self.fields.iter().find(|field| field.name == name)
    }
}

include!(concat!(env!("OUT_DIR"), "/schema.rs"));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::Kind;

    #[test]
    fn every_kind_has_its_messages() {
        for kind in Kind::ALL {
            for index in [0, 1] {
                assert!(MessageDef::of(kind.message(index)).is_some(), "{kind}");
            }
        }
    }

    #[test]
    fn types_and_options_are_read() {
        let reg = MessageDef::of("reg_file_entry").unwrap();
        assert!(matches!(reg.field(7).unwrap().typ, Type::S32));
        assert_eq!(reg.field(2).unwrap().style, Style::Flags("rfile.flags"));
        assert_eq!(reg.field_named("build_id").unwrap().label, Label::Repeated);
        let core = MessageDef::of("core_entry").unwrap();
        assert!(
            matches!(core.field(1).unwrap().typ, Type::Enum(march) if march.name(1) == Some("X86_64"))
        );
        let rdev = MessageDef::of("ghost_file_entry")
            .unwrap()
            .field_named("rdev")
            .unwrap();
        assert_eq!(rdev.style, Style::OldDevice);
    }

    /// The views are written by hand: their numbers and names have to be the schema's.
    #[test]
    fn views_agree_with_the_schema() {
        fn check<T: crate::views::View>() {
            let message = MessageDef::of(T::NAME).unwrap();
            for (number, name) in T::FIELDS {
                let known = message.field(*number).map(|field| field.name);
                assert_eq!(
                    known,
                    Some(name.trim_end_matches('_')),
                    "{} field {number}",
                    T::NAME
                );
            }
        }
        use crate::views::*;
        check::<InventoryEntry>();
        check::<FileEntry>();
        check::<RegFileEntry>();
        check::<InetSkEntry>();
        check::<UnixSkEntry>();
        check::<FanotifyFileEntry>();
        check::<FanotifyMarkEntry>();
        check::<FanotifyInodeMarkEntry>();
        check::<FanotifyMountMarkEntry>();
        check::<FifoEntry>();
        check::<TtyFileEntry>();
        check::<NsFileEntry>();
        check::<FownEntry>();
        check::<InotifyFileEntry>();
        check::<InotifyWdEntry>();
        check::<FhEntry>();
        check::<FdinfoEntry>();
        check::<MntEntry>();
        check::<CgroupEntry>();
        check::<CgSetEntry>();
        check::<CgMemberEntry>();
        check::<CgControllerEntry>();
        check::<CgroupDirEntry>();
        check::<CgroupPropEntry>();
        check::<UtsnsEntry>();
        check::<PstreeEntry>();
        check::<TaskKobjIdsEntry>();
        check::<CoreEntry>();
        check::<TaskCoreEntry>();
        check::<ThreadCoreEntry>();
        check::<FsEntry>();
        check::<MmEntry>();
        check::<VmaEntry>();
        check::<RemapFilePathEntry>();
    }
}
