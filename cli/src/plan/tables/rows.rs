//! Rows of the tables: what is in them, and which are one.

use std::collections::BTreeMap;

use restow::finding::Holder;
use restow::plan::FilePlan;

/// A row before it is folded.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) who: String,
    pub(super) path: String,
    pub(super) old: String,
    pub(super) new: String,
    pub(super) rule: String,
}

/// Whether something about a file is another after the restore: its path, what is there, or what CRIU checks.
pub(super) fn changes(file: &FilePlan) -> bool {
    file.new != file.old || file.new_object.is_some() || file.inert()
}

pub(super) fn new_of(file: &FilePlan) -> String {
    if file.inert() {
        return "(inert: reads give end of file)".into();
    }
    match &file.new_object {
        Some(object) if file.new == file.old || file.handed.is_some() => object.clone(),
        _ => file.new.to_string(),
    }
}

/// Rows that are alike but for who holds the object.
#[derive(Default)]
pub(super) struct Merged {
    order: Vec<(Row, Vec<Holder>)>,
    known: BTreeMap<[String; 4], usize>,
}

impl Merged {
    pub(super) fn add(&mut self, row: Row, holders: &[Holder]) {
        let key = [&row.path, &row.old, &row.new, &row.rule].map(Clone::clone);
        let next = self.order.len();
        let at = *self.known.entry(key).or_insert(next);
        if at == next {
            self.order.push((row, Vec::new()));
        }
        self.order[at].1.extend(holders);
    }

    pub(super) fn into_rows(self) -> Vec<Row> {
        let rows = self.order.into_iter();
        rows.map(|(row, holders)| Row {
            who: who(&holders),
            ..row
        })
        .collect()
    }
}

/// The first holder, and how many more there are.
pub(super) fn who(holders: &[Holder]) -> String {
    match holders {
        [] => "(no descriptor)".into(),
        [one] => one.to_string(),
        [first, rest @ ..] => format!("{first} +{}", rest.len()),
    }
}
