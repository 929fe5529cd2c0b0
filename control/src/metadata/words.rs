//! What may stand in a line of an iPXE script.
//!
//! iPXE knows no quoting: it cuts a line at white space, takes `||`, `&&` and
//! `;` as ends of a command, a word that begins with `#` as a comment, and
//! expands `${...}` anywhere. A value with a line break would be a new command.
//! So values are refused, never escaped.

/// Why a value may not stand in a script.
pub type Refusal = &'static str;

/// One word: a URL, a name, an id. No expansion.
///
/// # Errors
/// Names what it must not contain.
pub fn check_word(word: &str) -> Result<(), Refusal> {
    if word.is_empty() {
        return Err("is empty");
    }
    if word.contains("${") {
        return Err("contains ${, which iPXE would expand");
    }
    check_arg(word)
}

/// One kernel argument. iPXE's settings (`${uuid}`) may be used.
///
/// # Errors
/// Names what it must not contain.
pub fn check_arg(arg: &str) -> Result<(), Refusal> {
    if arg.is_empty() {
        return Err("is empty");
    }
    if !arg.bytes().all(|c| c.is_ascii_graphic()) {
        return Err(
            "contains white space, a control character or a character outside ASCII, which would end the argument or the script line",
        );
    }
    if matches!(arg, "||" | "&&" | ";") || arg.starts_with('#') {
        return Err("is an operator or a comment to iPXE");
    }
    Ok(())
}

/// Several words for `echo`. No expansion.
///
/// # Errors
/// Names what it must not contain.
pub fn check_text(text: &str) -> Result<(), Refusal> {
    if text.bytes().any(|c| c != b' ' && !c.is_ascii_graphic()) {
        return Err("contains a control character or a character outside ASCII");
    }
    text.split(' ').filter(|word| !word.is_empty()).try_for_each(check_word)
}

/// Text from the network as it may be logged and stored: printable ASCII, cut.
pub fn clean(text: &str) -> String {
    let printable = text.chars().take(crate::limits::NETWORK_TEXT);
    printable.flat_map(char::escape_default).take(crate::limits::NETWORK_TEXT).collect()
}

/// Joins arguments; a later one takes the place of an earlier one of the same
/// key (`console` may stand several times: it is only added).
pub fn merge_args(base: Vec<String>, more: &[String]) -> Vec<String> {
    let key = |arg: &str| arg.split_once('=').map_or(arg, |(k, _)| k).to_string();
    let replaced: Vec<String> = more.iter().map(|a| key(a)).filter(|k| k != "console").collect();
    let mut merged: Vec<String> = base.into_iter().filter(|a| !replaced.contains(&key(a))).collect();
    merged.extend(more.iter().cloned());
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_end_a_line_or_a_command_is_refused() {
        for bad in ["", "a b", "a\nboot", "a\rboot", "a\0", "a\tb", "é", "||", "&&", ";", "#x", "\u{7f}"] {
            assert!(check_arg(bad).is_err(), "{bad:?}");
            assert!(check_word(bad).is_err(), "{bad:?}");
        }
        assert_eq!(check_arg("ip=${netX/ip}"), Ok(()));
        assert!(check_word("ip=${netX/ip}").is_err());
        assert_eq!(check_arg("a=b||c;d"), Ok(()), "inside a word they mean nothing to iPXE");
        assert_eq!(check_text("loading talos, try 1"), Ok(()));
        for bad in ["a && reboot", "x\nreboot", "see ${uuid}"] {
            assert!(check_text(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn text_from_the_network_is_escaped_and_cut() {
        assert_eq!(clean("a\nb\u{1b}[31m"), "a\\nb\\u{1b}[31m");
        assert_eq!(clean(&"x".repeat(10_000)).len(), crate::limits::NETWORK_TEXT);
    }

    #[test]
    fn later_arguments_override_by_key() {
        let args = |list: &[&str]| list.iter().map(|s| s.to_string()).collect::<Vec<_>>();
        let merged =
            merge_args(args(&["console=tty0", "panic=30", "quiet"]), &args(&["panic=5", "console=ttyS1", "quiet"]));
        assert_eq!(merged, args(&["console=tty0", "panic=5", "console=ttyS1", "quiet"]));
    }
}
