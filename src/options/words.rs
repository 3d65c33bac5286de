//! What is said about mount options: the help, and the refusals of unknown names and senseless values.

use super::known::{Known, Takes, all};

/// Options of other tools and other versions, and what to do instead.
const ELSEWHERE: &[(&str, &str)] = &[
    (
        "auto_unmount",
        "leave it out: mounting again clears what a killed mount left behind",
    ),
    (
        "nonempty",
        "leave it out: a mountpoint does not have to be empty",
    ),
    (
        "remount",
        "a mount cannot be changed while it runs: unmount it and mount it with the new options",
    ),
    (
        "drop_privileges",
        "leave it out; to run as another user write setuid=USER",
    ),
    ("open_cache", "use no_open=on, which is the default"),
    ("writeback_cache", "use kernel_writeback"),
    ("buffer_size", "use frame_cache"),
    ("max_read", "use max_readahead"),
    ("max_background", "leave it out: it is set to fit"),
    ("kernel_cache", "leave it out: it is how the mount works"),
    (
        "direct_io",
        "leave it out; there is nothing to take its place",
    ),
    ("dir_entry_cache", "use entry_timeout"),
];

/// Options whose values are not shown, not even wrong ones.
const SECRETS: [&str; 3] = ["access_key_id", "secret_access_key", "session_token"];

/// Says what `known` takes instead of `value`.
pub(super) fn senseless(known: &Known, value: Option<&str>) -> String {
    let name = known.name;
    let takes = takes(known);
    match value {
        Some(_) if SECRETS.contains(&name) => format!("option {name} takes {takes}"),
        Some(value) => format!("option {name} takes {takes}, not {value:?}"),
        None => format!("option {name} needs a value: {takes}"),
    }
}

/// Says what to do about `name`, which is in no table. Its value may be a secret and is not shown.
pub(super) fn unknown(name: &str) -> String {
    let plain = name.replace('-', "_");
    if let Some((_, instead)) = ELSEWHERE.iter().find(|(other, _)| *other == plain) {
        return format!("option {name} is not one of WeldrFS's: {instead}");
    }
    match nearest(&plain) {
        Some(near) => format!(
            "unknown option {name}; did you mean {}? (It takes {})",
            near.name,
            takes(near)
        ),
        None => format!("unknown option {name}; \"weldrfs mount --help\" lists them all"),
    }
}

/// The known option that `name` is most likely a slip of.
fn nearest(name: &str) -> Option<&'static Known> {
    all()
        .map(|known| (strsim::damerau_levenshtein(name, known.name), known))
        .filter(|(distance, known)| *distance <= known.name.len().min(name.len()).div_ceil(4))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// What follows the name of `known`, in words.
fn takes(known: &Known) -> &'static str {
    match known.takes {
        Takes::Nothing(_) | Takes::Whatever => "no value",
        Takes::Value(takes, _) => takes,
        Takes::Switch(_) => "on or off",
    }
}

/// The table as text, for `--help`.
pub(crate) fn help() -> String {
    let mut text =
        String::from("Options for -o (separated by commas; \\, is a comma inside a value):\n");
    for known in all().filter(|known| !known.does.is_empty()) {
        let (name, does) = (known.name, known.does);
        text.push_str(&match known.takes {
            Takes::Value(takes, _) => {
                format!("  {name}=VALUE\n      {does}\n      takes {takes}\n")
            }
            Takes::Switch(_) => format!("  {name}=on|off\n      {does}\n"),
            Takes::Nothing(_) | Takes::Whatever => format!("  {name}\n      {does}\n"),
        });
    }
    let standard: Vec<_> = all()
        .filter(|known| known.does.is_empty())
        .map(|known| known.name)
        .collect();
    text.push_str(&format!(
        "\nThe usual options of mount(8) are accepted: {}, x-*.\ndefault_permissions is always on.\n",
        standard.join(", ")
    ));
    text
}
