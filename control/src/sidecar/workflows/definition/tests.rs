use super::*;

#[track_caller]
fn refused(text: &str) -> String {
    Workflow::read("w", text).unwrap_err().to_string()
}

const GOOD: &str = r#"
description: builds and tries
inputs:
  branch: {type: string, default: main}
  count: {type: number, required: false}
  fast: {type: boolean, default: true}
  where: {type: choice, choices: [here, there], default: here}
env: {CI: 1}
concurrency: 1
on_failure: revert
timeout: 2h
steps:
  - name: install
    run: npm ci
    network: host
    retry: {attempts: 3, backoff: 2s}
    timeout: 5m
  - name: test
    command: [npm, test, "--", "${{ inputs.branch }}"]
    outputs: [version]
    env: {N: "${{ inputs.count }}", LAST: "${{ steps.install.outputs.stdout }}"}
  - name: tell
    if: steps.test.outputs.version != '' && inputs.fast
    idempotent: false
    secrets: [KEY]
    http:
      method: POST
      url: https://example.org/${{ inputs.branch }}
      headers: {authorization: "Bearer ${{ secrets.KEY }}"}
      body: '{"v": "${{ steps.test.outputs.version }}"}'
      outputs: {id: /data/id}
  - name: keep
    snapshot: {name: "release-${{ steps.tell.outputs.id }}"}
  - name: rest
    wait: {for: 1s}
  - name: up
    wait: {http: "http://localhost:3000/", every: 2s}
  - name: code
    secrets: [KEY]
    agent:
      command: [my-agent, --acp]
      prompt: Fix the tests.
      permissions: {default: reject, allow: [read, edit]}
  - name: clean
    if: always()
    run: rm -rf tmp
"#;

#[test]
fn a_whole_definition_is_understood() {
    let workflow = Workflow::read("w", GOOD).unwrap();
    let kinds: Vec<&str> = workflow.steps.iter().map(|step| step.kind.name()).collect();
    assert_eq!(
        kinds,
        [
            "run", "run", "http", "snapshot", "wait", "wait", "agent", "run"
        ]
    );
    let install = &workflow.steps[0];
    assert_eq!((install.attempts, install.timeout_ms), (3, 300_000));
    let pauses: Vec<u64> = (1..8)
        .map(|done| install.retry.as_ref().unwrap().pause(done).as_secs())
        .collect();
    assert_eq!(pauses, [2, 4, 8, 16, 32, 60, 60]);
    assert!(!workflow.steps[2].idempotent);
    // The same as JSON, as a client that has no YAML sends it.
    let json = r#"{"steps":[{"name":"a","run":"true","timeout":"5s"}]}"#;
    assert_eq!(Workflow::read("w", json).unwrap().steps[0].timeout_ms, 5000);
}

#[test]
fn errors_say_where_and_what_was_expected() {
    for (text, parts) in [
        ("steps:\n  - name: a\n    runs: x\n", ["line 3", "runs"]),
        ("steps:\n  - name: a\n    run: [x]\n", ["line 3", "string"]),
        ("step: []\n", ["line 1", "step"]),
        ("steps: []\n", ["steps takes 1 to 100", "not 0"]),
        (
            "steps:\n  - name: a\n",
            ["line 2, column 11", "exactly one of"],
        ),
        (
            "steps:\n  - name: a\n    run: x\n    wait: {for: 1s}\n",
            ["line 2", "several"],
        ),
        (
            "steps:\n  - name: a\n    run: x\n    timeout: 10\n",
            ["line 4", "a time like"],
        ),
        (
            "steps:\n  - name: a\n    run: x\n    timeout: 25h\n",
            ["line 4, column 14", "24h at most"],
        ),
        (
            "steps:\n  - name: a\n    command: [x]\n    timeout: 2d\n",
            ["line 4, column 14", "24h at most"],
        ),
        (
            "steps:\n  - name: a\n    timeout: 2d\n    agent: {command: [x], prompt: y}\n",
            ["line 3, column 14", "24h at most"],
        ),
        (
            "steps:\n  - name: a\n    preview: {}\n    timeout: 61m\n",
            ["line 4, column 14", "1h at most"],
        ),
        (
            "steps:\n  - name: a\n    run: x\n  - name: a\n    run: x\n",
            ["line 4", "already"],
        ),
        (
            "steps:\n  - name: a\n    preview: {port: 0}\n",
            ["line 3, column 21", "1 to 65535"],
        ),
        (
            "steps:\n  - name: a\n    network: host\n    preview: {port: 1, host_port: 2}\n",
            ["line 4", "are the same"],
        ),
        (
            "steps:\n  - name: a\n    preview: {command: []}\n",
            ["line 2", "command"],
        ),
        (
            "steps:\n  - name: a b\n    run: x\n",
            ["line 2", "name takes"],
        ),
        (
            "steps:\n  - name: ../../etc\n    run: x\n",
            ["line 2", "name takes"],
        ),
        (
            "steps:\n  - name: a\n    run: echo ${{ inputs.x }}\n",
            ["line 3", "as a variable"],
        ),
        (
            "steps:\n  - name: a\n    command: [x, \"${{ inputs.x }}\"]\n",
            ["line 3, column 18", "no input"],
        ),
        (
            "steps:\n  - name: a\n    run: x\n    if: steps.b.state\n",
            ["line 4", "no step \"b\""],
        ),
        (
            "steps:\n  - name: a\n    run: x\n  - name: b\n    run: x\n    if: steps.a.outputs.z\n",
            ["line 6", "status, stdout"],
        ),
        (
            "steps:\n  - name: a\n    run: x\n    env: {A: \"${{ secrets.K }}\"}\n",
            ["line 4", "http steps only"],
        ),
        (
            "steps:\n  - name: a\n    http: {url: \"http://x/${{ secrets.K }}\"}\n",
            ["line 3", "among its secrets"],
        ),
        (
            "steps:\n  - name: a\n    http: {url: \"file:///etc/passwd\"}\n",
            ["line 3", "http://"],
        ),
        (
            "steps:\n  - name: a\n    http: {url: \"http://x\", headers: {Host: a}}\n",
            ["line 3", "no header"],
        ),
        (
            "steps:\n  - name: a\n    run: x\n    idempotent: false\n    retry: {attempts: 2}\n",
            ["line 5", "tried once"],
        ),
        (
            "steps:\n  - name: a\n    run: x\n    retry: {attempts: 0}\n",
            ["line 4", "1 to 100"],
        ),
        (
            "steps:\n  - name: a\n    wait: {for: 1s, http: http://x}\n",
            ["line 2", "exactly one of for"],
        ),
        (
            "inputs: {a: {type: choice}}\nsteps:\n  - name: a\n    run: x\n",
            ["inputs.a", "choices"],
        ),
        (
            "inputs: {a: {type: number, default: x}}\nsteps:\n  - name: a\n    run: x\n",
            ["line 1", "a number"],
        ),
        (
            "inputs: {a: {type: list}}\nsteps:\n  - name: a\n    run: x\n",
            ["line 1", "list"],
        ),
        (
            "steps:\n  - name: a\n    name: b\n    run: x\n",
            ["line 3", "name"],
        ),
        ("steps:\n\t- name: a\n", ["line 2", ""]),
        (
            "concurrency: 0\nsteps:\n  - name: a\n    run: x\n",
            ["line 1", "1 to 1000"],
        ),
        ("{", ["line", ""]),
        ("", ["", ""]),
    ] {
        let error = refused(text);
        assert!(error.starts_with("workflow w"), "{error}");
        for part in parts {
            assert!(error.contains(part), "{text}\n-> {error}");
        }
    }
}

#[test]
fn bombs_are_refused_and_cost_nothing() {
    let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..10 {
        let before = format!("*a{}, ", level - 1).repeat(9);
        laughs.push_str(&format!("a{level}: &a{level} [{before}*a{}]\n", level - 1));
    }
    let deep = format!("steps: {}{}", "[".repeat(5000), "]".repeat(5000));
    let many_steps = format!("steps:\n{}", "  - {name: a, run: x}\n".repeat(101));
    let wide = format!("steps: [{}]", "x,".repeat(30_000));
    let merged = "a: &a {b: c}\nd: {<<: *a}\nsteps: []\n".to_owned();
    let many_documents = "--- {}\n".repeat(1000);
    let huge = "#".repeat(DEFINITION_MAX + 1);
    for text in [laughs, deep, many_steps, wide, merged, many_documents, huge] {
        let error = refused(&text);
        assert!(error.len() < 1000, "{} bytes of error", error.len());
    }
}

/// A decoder of what strangers send is total.
#[test]
fn no_bytes_break_the_reader() {
    let mut state = 11_u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    let odd = [
        "\0", "&a", "*a", "!!binary", "|", ">", "---", "\u{feff}", "{", "]", "'", "\"", ": ", "\t",
        "ä", "${{", "}}",
    ];
    for _ in 0..3000 {
        let mut text = GOOD.to_owned();
        for _ in 0..1 + next() % 4 {
            let at = next() % text.len();
            if !text.is_char_boundary(at) {
                continue;
            }
            match next() % 3 {
                0 => text.insert_str(at, odd[next() % odd.len()]),
                1 => text.truncate(at.max(1)),
                _ => drop(text.remove(at.min(text.len() - 1))),
            }
            if text.is_empty() {
                break;
            }
        }
        drop(Workflow::read("w", &text));
    }
}

#[test]
fn inputs_are_what_the_definition_says() {
    let workflow = Workflow::read("w", GOOD).unwrap();
    let of = |text: &str| {
        let asked = serde_json::from_str(text).unwrap();
        Inputs::of(&workflow.definition, &asked)
    };
    let inputs = of(r#"{"count": "3", "fast": "false", "where": "there"}"#).unwrap();
    assert_eq!(
        serde_json::to_string(&inputs.0).unwrap(),
        r#"{"branch":"main","count":3,"fast":false,"where":"there"}"#
    );
    for (text, part) in [
        (r#"{"nope": 1}"#, "it has branch, count, fast, where"),
        (r#"{"count": "x"}"#, "inputs.count: it takes a number"),
        (r#"{"fast": 1}"#, "true or false"),
        (r#"{"where": "nowhere"}"#, "one of here, there"),
        (r#"{"branch": {}}"#, "inputs.branch"),
        (r#"{"branch": "a\u0000"}"#, "inputs.branch"),
    ] {
        let error = of(text).unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
    let needs = Workflow::read("w", "inputs: {a: {}}\nsteps: [{name: a, run: x}]").unwrap();
    let error = Inputs::of(&needs.definition, &Default::default()).unwrap_err();
    assert!(error.to_string().contains("inputs.a is missing"), "{error}");
}

#[test]
fn the_example_of_the_documentation_is_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/workflows.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (_, behind) = text.split_once("```yaml\n").unwrap();
    let (example, _) = behind.split_once("```").unwrap();
    let workflow = Workflow::read("example", example).unwrap();
    assert_eq!(workflow.steps.len(), 7);
}
