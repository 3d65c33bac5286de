//! What of a message a client of the sidecar may see: no folder and no address of this machine but those that it named
//! itself.

/// `text` with every path and address replaced that is not in `named`.
#[must_use]
pub fn without_places(text: &str, named: &[&str]) -> String {
    let known = |word: &str| {
        named
            .iter()
            .any(|named| !named.is_empty() && *named == word)
    };
    text.split(' ')
        .map(|word| {
            let bare = word.trim_matches(|c: char| "\"'(),;:.".contains(c));
            if known(bare) {
                return word.to_owned();
            }
            let replacement = if bare.starts_with("http://") || bare.starts_with("https://") {
                "(the endpoint)"
            } else if bare.len() > 1 && bare.starts_with('/') {
                "(a path)"
            } else if is_address(bare) {
                "(an address)"
            } else {
                return word.to_owned();
            };
            word.replacen(bare, replacement, 1)
        })
        .collect::<Vec<_>>()
        .join(" ")
}

fn is_address(word: &str) -> bool {
    word.parse::<std::net::SocketAddr>().is_ok() || word.parse::<std::net::Ipv4Addr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_the_machine_are_left_out_and_those_of_the_client_are_not() {
        let text = "cannot open the volume file:///srv/v: /var/lib/weldrfs/0a/meta: at 10.0.0.7:9000, \
                    \"http://10.0.0.7:9000\" (see /mnt/v); use /etc/fuse.conf.";
        assert_eq!(
            without_places(text, &["file:///srv/v", "/mnt/v"]),
            "cannot open the volume file:///srv/v: (a path): at (an address), \"(the endpoint)\" (see /mnt/v); use \
             (a path)."
        );
        assert_eq!(without_places("a / b 1.5 2:3", &[""]), "a / b 1.5 2:3");
    }
}
