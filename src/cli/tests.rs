use super::*;

fn words(line: &str) -> Vec<OsString> {
    line.split(' ').map(OsString::from).collect()
}

fn mount(line: &str) -> mount::Request {
    match parse(words(line)) {
        Ok(Invocation::Mount(request)) => request,
        other => panic!("{line}: {other:?}"),
    }
}

fn refusal(line: &str) -> String {
    parse(words(line)).expect_err(line).to_string()
}

#[test]
fn every_way_of_mounting_is_the_same_request() {
    let expected = mount::Request {
        source: "file:///srv".into(),
        mountpoint: "/mnt".into(),
        options: vec!["rw,dev,suid".into()],
        foreground: false,
        fake: false,
        sloppy: false,
        namespace: None,
    };
    for line in [
        "weldrfs mount file:///srv /mnt -o rw,dev,suid",
        "weldrfs mount -o rw,dev,suid file:///srv /mnt",
        "weldrfs file:///srv /mnt -o rw,dev,suid",
        "/usr/bin/weldrfs file:///srv /mnt -o rw,dev,suid",
        "mount.fuse.weldrfs file:///srv /mnt -o rw,dev,suid",
        "/sbin/mount.fuse.weldrfs file:///srv /mnt -n -v -o rw,dev,suid -t fuse.weldrfs",
        "/sbin/mount.weldrfs -o rw,dev,suid file:///srv /mnt",
    ] {
        assert_eq!(mount(line), expected, "{line}");
    }
}

#[test]
fn the_helpers_flags_are_understood() {
    let request = mount("mount.fuse.weldrfs file:///srv /mnt -sfnv -N 77 -o ro -o noatime");
    assert!(request.sloppy && request.fake);
    assert_eq!(request.namespace, Some("77".into()));
    assert_eq!(request.options, ["ro", "noatime"]);
    // The letter means something else where people write it.
    let request = mount("weldrfs mount file:///srv /mnt -f");
    assert!(request.foreground && !request.fake);
}

#[test]
fn a_source_without_scheme_reaches_its_own_message() {
    assert_eq!(mount("weldrfs /srv /mnt -o rw").source, "/srv");
    assert_eq!(mount("weldrfs none /mnt -o rw").source, "none");
}

#[test]
fn a_slip_in_a_command_is_not_taken_for_a_source() {
    assert!(refusal("weldrfs mont file:///srv /mnt").contains("'mount'"));
    assert!(refusal("weldrfs stats").contains("'status'"));
    assert!(refusal("weldrfs mount file:///srv").contains("<MOUNTPOINT>"));
    assert!(refusal("weldrfs umount /mnt --timeout 5").contains("--sync"));
    assert!(refusal("weldrfs sync /mnt --timeout 0").contains("0"));
}

#[test]
fn commands_keep_their_names_before_folders() {
    assert!(matches!(
        parse(words("weldrfs sync /mnt")),
        Ok(Invocation::Sync { .. })
    ));
    assert!(matches!(
        parse(words("weldrfs status")),
        Ok(Invocation::Status {
            path: None,
            as_json: false,
            ..
        })
    ));
    assert!(matches!(
        parse(words("weldrfs drop-caches /mnt")),
        Ok(Invocation::DropCaches { .. })
    ));
    match parse(words("weldrfs umount /mnt --sync --state-dir /s")) {
        Ok(Invocation::Umount {
            request, state_dir, ..
        }) => {
            assert_eq!(request.sync, Some(Duration::from_secs(30)));
            assert_eq!(state_dir, Some("/s".into()));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_help_of_mount_lists_the_options_and_the_environment() {
    let help = refusal("weldrfs mount --help");
    for part in [
        "cache_size=VALUE",
        "no_open=on|off",
        "_netdev",
        "WELDR_ENV_VOL",
        "32 mount failure",
    ] {
        assert!(help.contains(part), "{part}");
    }
    assert!(refusal("weldrfs --version").starts_with("weldrfs "));
}

#[test]
fn the_definitions_are_sound() {
    Cli::command().debug_assert();
    Helper::command().debug_assert();
}

#[test]
fn the_sidecar_and_its_clients_are_understood() {
    let parsed = |line: &str| parse(words(line)).unwrap_or_else(|error| panic!("{line}: {error}"));
    let listen = |line: &str| match parsed(line) {
        Invocation::Control { request, .. } => request.listen,
        other => panic!("{line}: {other:?}"),
    };
    assert_eq!(listen("weldrfs control"), None);
    assert_eq!(listen("weldrfs control --listen"), Some(String::new()));
    assert_eq!(
        listen("weldrfs control --listen :1 --max-mounts 3"),
        Some(":1".into())
    );
    assert!(matches!(
        parsed("weldrfs control token create --name x --expires 2h --state-dir /s"),
        Invocation::Token {
            request: sidecar::TokenRequest::Create { expires: Some(span), .. },
            state_dir: Some(_),
        } if span == Duration::from_secs(7200)
    ));
    assert!(matches!(
        parsed("weldrfs control openapi"),
        Invocation::OpenApi
    ));
    for line in [
        "weldrfs mounts --socket /s rm x --sync",
        "weldrfs mounts rm x --sync --socket /s",
    ] {
        assert!(
            matches!(
                parsed(line),
                Invocation::Mounts {
                    request: commands::mounts::Request::Remove { sync: true, .. },
                    socket: Some(_),
                    as_json: false,
                }
            ),
            "{line}"
        );
    }
    assert!(matches!(
        parsed("weldrfs branches create m:app/web fix --socket /s"),
        Invocation::Branches {
            request: commands::branches::Request::Create(request),
            socket: Some(_),
            as_json: false,
        } if request.mount == "m" && request.path.as_deref() == Some("app/web") && request.name == "fix"
    ));
    assert!(matches!(
        parsed("weldrfs mounts snap restore m before --json"),
        Invocation::MountSnapshots {
            request: commands::mount_snapshots::Request { path: None, .. },
            as_json: true,
            ..
        }
    ));
    assert!(matches!(
        parsed("weldrfs workflows trigger m:app/web build -i a=1 --input b= --follow --socket /s"),
        Invocation::Workflows {
            request: commands::workflows::Request::Trigger { mount, path, workflow, inputs, follow: true },
            socket: Some(_),
            as_json: false,
        } if mount == "m" && path.as_deref() == Some("app/web") && workflow == "build"
            && inputs == [("a".into(), "1".into()), ("b".into(), String::new())]
    ));
    for (line, skips) in [
        ("weldrfs workflows retry r-1 build --json", false),
        ("weldrfs workflows skip r-1 build --json", true),
    ] {
        assert!(
            matches!(
                parsed(line),
                Invocation::Workflows {
                    request: commands::workflows::Request::Again { step: Some(_), skips: found, .. },
                    as_json: true,
                    ..
                } if found == skips
            ),
            "{line}"
        );
    }
    for (line, has_step, undoes) in [
        ("weldrfs workflows revert r-1", false, false),
        ("weldrfs workflows revert r-1 build", true, false),
        ("weldrfs workflows revert r-1 --undo", false, true),
    ] {
        assert!(
            matches!(
                parsed(line),
                Invocation::Workflows {
                    request: commands::workflows::Request::Revert { step, undo, .. },
                    ..
                } if step.is_some() == has_step && undo == undoes
            ),
            "{line}"
        );
    }
    assert!(matches!(
        parsed("weldrfs workflows diff r-1 build --patch"),
        Invocation::Workflows {
            request: commands::workflows::Request::Diff {
                step: Some(_),
                as_patch: true,
                ..
            },
            ..
        }
    ));
    assert!(matches!(
        parsed("weldrfs integrations install m:app postgresql better-auth -i postgresql.database=a=b -f"),
        Invocation::Integrations {
            request: commands::integrations::Request::Install { place, names, inputs, follow: true },
            as_json: false,
            ..
        } if place == ("m".into(), Some("app".into())) && names == ["postgresql", "better-auth"]
            && inputs == [("postgresql".into(), "database".into(), "a=b".into())]
    ));
    assert!(matches!(
        parsed("weldrfs events --mount m --run r --preview p"),
        Invocation::Events { request, .. }
            if (request.mount.as_deref(), request.run.as_deref(), request.preview.as_deref())
                == (Some("m"), Some("r"), Some("p"))
    ));
    for line in [
        "weldrfs integrations",
        "weldrfs integrations install m",
        "weldrfs integrations install m a -i b=1",
        "weldrfs integrations show",
        "weldrfs workflows",
        "weldrfs workflows trigger m",
        "weldrfs workflows trigger m build -i a",
        "weldrfs workflows ls --limit 0",
        "weldrfs workflows ls --limit 201",
        "weldrfs workflows show",
        "weldrfs workflows diff r-1 --patch --json",
        "weldrfs workflows revert r-1 build --undo",
        "weldrfs control --listen :1 token list",
        "weldrfs branches",
        "weldrfs branches create m",
        "weldrfs branches sync m:b --timeout 0",
        "weldrfs mounts snapshot diff m a --stat --json",
        "weldrfs control --max-mounts 0",
        "weldrfs control --rate 0",
        "weldrfs control token",
        "weldrfs mounts",
        "weldrfs mounts sync x --timeout 0",
        "weldrfs mounts logs x --lines 5001",
        "weldrfs events --after -1",
    ] {
        refusal(line);
    }
}
