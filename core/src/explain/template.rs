//! Texts with facts put in: `[{holder}: ]file {path}` leaves out what is in brackets when a fact in it is not known. `[[` is a bracket.

/// Puts facts into a text. A fact that is not known outside of brackets is `?`.
pub(super) fn render<'f>(template: &str, fact: &impl Fn(&str) -> Option<&'f str>) -> String {
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('[') {
        text.push_str(&fill(before, fact).0);
        if let Some(after) = after.strip_prefix('[') {
            text.push('[');
            rest = after;
            continue;
        }
        let (optional, after) = after.split_once(']').unwrap_or((after, ""));
        let (filled, complete) = fill(optional, fact);
        if complete {
            text.push_str(&filled);
        }
        rest = after;
    }
    text.push_str(&fill(rest, fact).0);
    text
}

fn fill<'f>(template: &str, fact: &impl Fn(&str) -> Option<&'f str>) -> (String, bool) {
    let (mut text, mut complete, mut rest) = (String::new(), true, template);
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').unwrap_or((after, ""));
        text.push_str(before);
        match fact(name) {
            Some(value) => text.push_str(value),
            None => {
                complete = false;
                text.push('?');
            }
        }
        rest = after;
    }
    text.push_str(rest);
    (text, complete)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_left_out() {
        let fact = |name: &str| (name == "path").then_some("/a [b]{c}");
        assert_eq!(render("[{holder}: ]file {path}", &fact), "file /a [b]{c}");
        assert_eq!(
            render("file[[mnt_id:inode] x", &fact),
            "file[mnt_id:inode] x"
        );
        assert_eq!(
            render("file {path}[ of {path}] {x}", &fact),
            "file /a [b]{c} of /a [b]{c} ?"
        );
    }
}
