use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use serde_json::{Value as Json, json};

use super::folder::{Folder, Found};
use super::library;
use super::plan::{Packager, Plan, ordered, plan};
use super::state::{State, sha256};
use crate::error::ApiError;
use crate::sandbox::open_folder;
use crate::sidecar::workflows::{Given, INSTALL_MAX, Manifest, works_of};

fn nothing_beside(_: &str) -> Result<String, ApiError> {
    Err(ApiError::NotFound("nothing is beside it".into()))
}

fn read(text: &str) -> Result<Manifest, ApiError> {
    Manifest::read("integration x", text, &nothing_beside)
}

#[track_caller]
fn refused(text: &str, parts: &[&str]) {
    let error = read(text).unwrap_err();
    assert_eq!(error.code(), "invalid_request");
    let error = error.to_string();
    for part in parts {
        assert!(error.contains(part), "{text}\n{error}\nlacks {part:?}");
    }
}

const HEAD: &str = "name: x\nversion: 1.0.0\n";

fn npm() -> Packager {
    Packager {
        name: "npm",
        program: "npm".into(),
    }
}

fn planned(manifests: &[Manifest], inputs: Json, state: &State) -> Result<Plan, ApiError> {
    let inputs: BTreeMap<String, BTreeMap<String, Json>> = serde_json::from_value(inputs).unwrap();
    let none = BTreeMap::new();
    let given = manifests.iter().map(|one| {
        let given = one.given(inputs.get(&one.name).unwrap_or(&none))?;
        Ok((one, given))
    });
    let given: Vec<(&Manifest, Given<'_>)> = given.collect::<Result<_, ApiError>>()?;
    plan(&given, state, &npm())
}

struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("app")).unwrap();
        Self { dir }
    }

    fn folder(&self) -> Folder {
        Folder::of(open_folder(self.dir.path(), "app".as_ref()).unwrap())
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.dir.path().join("app").join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn get(&self, path: &str) -> String {
        std::fs::read_to_string(self.dir.path().join("app").join(path)).unwrap_or_default()
    }
}

#[test]
fn a_manifest_that_cannot_be_followed_says_where_and_what_was_expected() {
    for (text, parts) in [
        ("version: 1\n", &["missing field `name`"][..]),
        (
            "name: X\nversion: 1\n",
            &["line 1, column 7", "lower-case letter"],
        ),
        ("name: x\nversion: ''\n", &["line 2, column 10", "1.2.0"]),
        (
            "name: x\nversion: 1\nfile: []\n",
            &["line 3, column 1", "unknown field `file`"],
        ),
        (
            "name: x\nversion: 1\nrequires: [x]\n",
            &["line 3, column 12", "others"],
        ),
        (
            "name: x\nversion: 1\npackages: {a: latest}\n",
            &["line 3, column 15", "^1.2.3"],
        ),
        (
            "name: x\nversion: 1\npackages: {a: 'file:/etc'}\n",
            &["line 3", "^1.2.3"],
        ),
        (
            "name: x\nversion: 1\npackages: {'--x': 1.0.0}\n",
            &["line 3", "\"--x\""],
        ),
        (
            "name: x\nversion: 1\nenv: {A B: 1}\n",
            &["line 3", "variable"],
        ),
        (
            "name: x\nversion: 1\nenv: {A: '${{ inputs.b }}'}\n",
            &["line 3, column 10", "no input \"b\""],
        ),
        (
            "name: x\nversion: 1\nenv: {A: '${{ secrets.B }}'}\n",
            &["never written down"],
        ),
        (
            "name: x\nversion: 1\nsecrets: {A: {if: failure()}}\n",
            &["only inputs.NAME"],
        ),
        (
            "name: x\nversion: 1\nsteps:\n  - {name: a}\n",
            &["line 4, column 12", "exactly one of"],
        ),
        (
            "name: x\nversion: 1\nsteps:\n  - {name: a, run: 'echo ${{ inputs.a }}'}\n",
            &["run has no ${{ }}"],
        ),
        (
            "name: x\nversion: 1\nsteps:\n  - {name: a, run: x, secrets: [B]}\n",
            &["line 4", "no secret B"],
        ),
        (
            "name: x\nversion: 1\nsteps:\n  - {name: a, install: {}}\n",
            &["unknown field `install`"],
        ),
        (
            "name: x\nversion: 1\ninputs:\n  a: {type: number, default: x}\n",
            &["line 4, column 30", "a number"],
        ),
        (
            "name: x\nversion: 1\nfiles: [{path: a}]\n",
            &["line 3, column 16", "text and from"],
        ),
        (
            "name: x\nversion: 1\nfiles: [{path: a, from: b}]\n",
            &["line 3, column 25", "nothing is beside"],
        ),
        (
            "name: x\nversion: 1\nfiles:\n  - path: a\n    text: |\n      one\n      two ${{ inputs.z }}\n",
            &[
                "line 6, column 7",
                "line 2, column 5 of the text",
                "no input \"z\"",
            ],
        ),
    ] {
        refused(text, parts);
    }
}

#[test]
fn no_template_is_written_outside_of_the_project_or_into_git() {
    for path in [
        "/etc/passwd",
        "../x",
        "a/../../x",
        "a/..",
        "..",
        ".",
        "./a",
        "a//b",
        "a/",
        "",
        "a\\0b",
        ".git/hooks/post-checkout",
        "sub/.GIT/config",
        ".env",
        ".weldr/integrations.json",
    ] {
        let text = format!("{HEAD}files: [{{path: \"{path}\", text: x}}]\n");
        refused(&text, &["line 3, column 16"]);
    }
    read(&format!("{HEAD}files: [{{path: a/.gitignore, text: x}}]\n")).unwrap();
}

#[test]
fn a_manifest_that_grows_when_it_is_read_is_refused() {
    let mut bomb = format!("{HEAD}description: &a0 xxxxxxxxxx\n");
    bomb.push_str("steps:\n");
    let mut last = "a0".to_owned();
    for n in 1..12 {
        let all = vec![format!("*{last}"); 10].join(", ");
        bomb.push_str(&format!("  - &a{n} [{all}]\n"));
        last = format!("a{n}");
    }
    let error = read(&bomb).unwrap_err();
    assert_eq!(error.code(), "invalid_request", "{error}");
    let deep = format!("{HEAD}inputs: {}{}\n", "[".repeat(5000), "]".repeat(5000));
    assert_eq!(read(&deep).unwrap_err().code(), "invalid_request");
    let long = format!("{HEAD}description: {}\n", "x".repeat(70_000));
    assert!(
        read(&long)
            .unwrap_err()
            .to_string()
            .contains("bytes at most")
    );
}

const BASE: &str = "
name: base
version: 1.0.0
inputs:
  port: {type: number, default: 5432}
  kind: {type: choice, choices: [one, two], default: one}
env: {BASE_PORT: '${{ inputs.port }}'}
files:
  - {path: base/conf, text: \"port ${{ inputs.port }} \\t ä\\u2028\\u0085 '${{ 'inputs.port' }}'\\n\"}
  - {path: base/two, text: two, if: inputs.kind == 'two'}
secrets:
  TOKEN: {if: inputs.kind == 'two'}
steps:
  - {name: first, command: [echo, '${{ inputs.port }}'], outputs: [x]}
  - name: second
    if: steps.first.outputs.x == 'steps.first' && inputs.kind == 'one'
    command: [echo, '${{ steps.first.outputs.x }} ${{ inputs.kind }}']
  - {name: third, if: inputs.kind == 'two', run: 'true', secrets: [TOKEN]}
";

const TOP: &str = "
name: top
version: 2.0.0
requires: [base]
inputs: {port: {}}
packages: {pg: ^8.1.0, '@a/b': 1.0.0}
steps:
  - {name: first, command: [echo, '${{ inputs.port }}']}
";

#[test]
fn several_are_one_workflow_in_the_order_in_which_they_need_each_other() {
    let (base, top) = (read(BASE).unwrap(), read(TOP).unwrap());
    let all = ordered(vec![top.clone(), base.clone()], &State::default()).unwrap();
    let inputs = json!({"top": {"port": "x"}, "base": {}});
    let plan = planned(&all, inputs, &State::default()).unwrap();
    assert_eq!(plan.name, "install:base,top");
    assert!(plan.secrets.is_empty());
    let definition: Json = serde_json::from_str(&plan.definition).unwrap();
    assert_eq!(definition["on_failure"], "revert");
    let names = definition["steps"].as_array().unwrap().iter();
    let names: Vec<&str> = names.map(|step| step["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "files",
            "packages",
            "base_first",
            "base_second",
            "top_first",
            "note"
        ]
    );
    assert_eq!(
        definition["steps"][1]["command"].as_array().unwrap()[6..],
        ["@a/b@1.0.0", "pg@^8.1.0"]
    );
    let second = &definition["steps"][3];
    assert_eq!(
        second["if"],
        "steps.base_first.outputs.x == 'steps.first' && inputs.base_kind == 'one'"
    );
    assert_eq!(
        second["command"][1],
        "${{ steps.base_first.outputs.x }} ${{ inputs.base_kind }}"
    );
    assert_eq!(
        definition["steps"][4]["command"][1],
        "${{ inputs.top_port }}"
    );
    assert_eq!(plan.inputs["top_port"], "x");
    assert_eq!(plan.inputs["base_port"].to_string(), "5432");
    assert!(definition["inputs"]["base_kind"]["choices"].is_array());
    let text = &plan.work.files[0].text;
    assert_eq!(text, "port 5432 \t ä\u{2028}\u{85} 'inputs.port'\n");

    let plan = planned(
        std::slice::from_ref(&base),
        json!({"base": {"kind": "two"}}),
        &State::default(),
    );
    let plan = plan.unwrap();
    assert_eq!(plan.secrets, ["TOKEN"]);
    // The other one asks for what only the run can say.
    assert!(plan.definition.contains("base_third") && plan.definition.contains("base_second"));

    let missing = ordered(vec![top.clone()], &State::default())
        .unwrap_err()
        .to_string();
    assert!(missing.contains("top requires base"), "{missing}");
    let state = r#"{"integrations": {"base": {"version": "1"}}}"#;
    ordered(vec![top.clone()], &serde_json::from_str(state).unwrap()).unwrap();
    let again = BASE.replace("version: 1.0.0", "version: 1\nrequires: [top]");
    let error = ordered(vec![top, read(&again).unwrap()], &State::default()).unwrap_err();
    assert!(error.to_string().contains("require each other"), "{error}");
}

#[test]
fn two_that_do_not_agree_are_not_installed_together() {
    for (one, other, what) in [
        (
            "files: [{path: a, text: x}]",
            "files: [{path: a, text: y}]",
            "about a;",
        ),
        ("env: {A: 1}", "env: {A: 2}", "A of .env"),
        ("packages: {p: 1.0.0}", "packages: {p: 2.0.0}", "package p"),
    ] {
        let one = read(&format!("{HEAD}{one}\n")).unwrap();
        let other = read(&format!("name: y\nversion: 1\n{other}\n")).unwrap();
        let error = planned(&[one, other], json!({}), &State::default()).unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
    }
    let text = format!(
        "{HEAD}inputs: {{a: {{}}}}\nfiles: [{{path: a, text: '{}'}}]\n",
        "${{ inputs.a }}".repeat(10)
    );
    let long = json!({"x": {"a": "y".repeat(10_000)}});
    let error = planned(&[read(&text).unwrap()], long, &State::default()).unwrap_err();
    assert!(
        error.to_string().contains("a of x has more than"),
        "{error}"
    );
    let big = (0..20).map(|n| format!("  - {{path: f{n}, from: x}}\n"));
    let text = format!("{HEAD}files:\n{}", big.collect::<String>());
    let beside = |_: &str| Ok("x".repeat(60_000));
    let big = Manifest::read("integration x", &text, &beside).unwrap();
    let error = planned(&[big], json!({}), &State::default()).unwrap_err();
    assert!(
        error.to_string().contains(&INSTALL_MAX.to_string()),
        "{error}"
    );
}

/// One after the other is no way around it.
#[test]
fn what_another_one_wrote_before_is_written_over_by_nobody_else() {
    let one = read(&format!(
        "{HEAD}files: [{{path: a, text: x}}]\nenv: {{A: 1}}\n"
    ))
    .unwrap();
    let with = |rest: &str| read(&format!("name: y\nversion: 1\n{rest}\n")).unwrap();
    let first = planned(std::slice::from_ref(&one), json!({}), &State::default()).unwrap();
    let scene = Scene::new();
    let works = works_of(&first.name, &first.definition).unwrap();
    for work in works {
        work.write(&scene.folder(), &AtomicBool::new(false))
            .unwrap();
    }
    let there = State::read(&scene.folder()).unwrap();
    for (rest, what) in [
        ("files: [{path: a, text: y}]", "do not agree about a;"),
        ("env: {A: 2}", "do not agree about A of .env;"),
    ] {
        let error = planned(&[with(rest)], json!({}), &there).unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
    }
    // The same is no disagreement, and both may change together.
    let same = with("files: [{path: a, text: x}]\nenv: {A: 1}");
    let second = planned(&[same], json!({}), &there).unwrap();
    second.work.check(&scene.folder()).unwrap();
    let newer = read(&format!("{HEAD}files: [{{path: a, text: z}}]\n")).unwrap();
    let both = planned(
        &[newer, with("files: [{path: a, text: z}]")],
        json!({}),
        &there,
    );
    both.unwrap().work.check(&scene.folder()).unwrap();
}

#[test]
fn what_somebody_changed_is_listed_and_stays() {
    let scene = Scene::new();
    let base = read(BASE).unwrap();
    let plan = |state: &State| planned(std::slice::from_ref(&base), json!({}), state).unwrap();
    let first = plan(&State::default());
    let text = first.work.files[0].text.clone();
    assert!(text.starts_with("port 5432"), "{text}");
    first.work.clone().check(&scene.folder()).unwrap();
    first
        .work
        .write(&scene.folder(), &AtomicBool::new(false))
        .unwrap();
    assert_eq!(scene.get("base/conf"), text);
    assert_eq!(scene.get(".env"), "BASE_PORT=5432\n");
    // What is there already is no change.
    first.work.check(&scene.folder()).unwrap();

    scene.put("base/conf", "mine");
    scene.put(".env", "X=1\nBASE_PORT=1\n");
    let error = first.work.check(&scene.folder()).unwrap_err();
    assert_eq!(error.code(), "files_changed");
    let listed = error.to_string();
    assert!(listed.contains("base/conf, BASE_PORT of .env"), "{listed}");

    // What we wrote before may be replaced.
    let note = json!({"integrations": {"base": {"version": "0", "files": {"base/conf": sha256(b"mine")},
        "variables": {"BASE_PORT": sha256(b"1")}}}});
    let second = plan(&serde_json::from_value(note).unwrap());
    second.work.check(&scene.folder()).unwrap();
    second
        .work
        .write(&scene.folder(), &AtomicBool::new(false))
        .unwrap();
    assert_eq!(scene.get("base/conf"), text);
    assert_eq!(scene.get(".env"), "X=1\nBASE_PORT=5432\n");
}

#[test]
fn no_link_is_followed_and_nothing_but_files_is_overwritten() {
    use std::os::unix::fs::symlink;
    let scene = Scene::new();
    let outside = scene.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("conf"), "canary").unwrap();
    let work = planned(&[read(BASE).unwrap()], json!({}), &State::default())
        .unwrap()
        .work;
    let project = scene.dir.path().join("app");
    symlink(&outside, project.join("base")).unwrap();
    assert_eq!(
        work.check(&scene.folder()).unwrap_err().code(),
        "files_changed"
    );
    work.write(&scene.folder(), &AtomicBool::new(false))
        .unwrap_err();
    std::fs::remove_file(project.join("base")).unwrap();
    std::fs::create_dir(project.join("base")).unwrap();
    symlink(outside.join("conf"), project.join("base/conf")).unwrap();
    assert_eq!(
        work.check(&scene.folder()).unwrap_err().code(),
        "files_changed"
    );
    std::fs::remove_file(project.join("base/conf")).unwrap();
    std::fs::create_dir(project.join("base/conf")).unwrap();
    assert_eq!(
        work.check(&scene.folder()).unwrap_err().code(),
        "files_changed"
    );
    std::fs::remove_dir(project.join("base/conf")).unwrap();
    // The place of the new file is not one that can be written through.
    symlink(outside.join("conf"), project.join("base/.weldr-new")).unwrap();
    symlink(outside.join("conf"), project.join(".env")).unwrap();
    assert!(
        work.check(&scene.folder())
            .unwrap_err()
            .to_string()
            .contains(".env")
    );
    std::fs::remove_file(project.join(".env")).unwrap();
    work.write(&scene.folder(), &AtomicBool::new(false))
        .unwrap();
    assert_eq!(
        std::fs::read_to_string(outside.join("conf")).unwrap(),
        "canary"
    );
    assert!(scene.get("base/conf").starts_with("port"));
}

#[test]
fn the_note_of_a_project_is_read_whatever_is_in_it() {
    let scene = Scene::new();
    assert_eq!(State::read(&scene.folder()).unwrap(), State::default());
    for text in [
        "",
        "{",
        "{\"integrations\": 1}",
        "{\"integrations\": {\"a\": {}}}",
    ] {
        scene.put(".weldr/integrations.json", text);
        let error = State::read(&scene.folder()).unwrap_err();
        assert_eq!(error.code(), "conflict", "{text}");
    }
    scene.put(".weldr/integrations.json", "{\"later\": 1}");
    State::read(&scene.folder()).unwrap();
}

#[test]
fn a_project_has_its_own_and_those_that_come_with_the_sidecar_are_what_they_are() {
    let scene = Scene::new();
    let own = ".weldr/integrations";
    scene.put(
        &format!("{own}/mine/manifest.yaml"),
        "name: mine\nversion: 1\nfiles: [{path: a, from: t/x}]\n",
    );
    scene.put(&format!("{own}/mine/t/x"), "text");
    scene.put(
        &format!("{own}/other/manifest.yaml"),
        "name: mine\nversion: 1\n",
    );
    scene.put(
        &format!("{own}/postgresql/manifest.yaml"),
        "name: postgresql\nversion: 66\n",
    );
    scene.put(
        &format!("{own}/out/manifest.yaml"),
        "name: out\nversion: 1\nfiles: [{path: a, from: ../mine/t/x}]\n",
    );
    scene.put(
        &format!("{own}/link/manifest.yaml"),
        "name: link\nversion: 1\nfiles: [{path: a, from: x}]\n",
    );
    std::os::unix::fs::symlink(
        "/etc/passwd",
        scene.dir.path().join("app").join(own).join("link/x"),
    )
    .unwrap();
    let folder = scene.folder();
    let (mine, _) = library::get(Some(&folder), "mine").unwrap();
    assert_eq!(
        mine.given(&BTreeMap::new()).unwrap().files()[0].text,
        "text"
    );
    let (built_in, _) = library::get(Some(&folder), "postgresql").unwrap();
    assert_ne!(built_in.version, "66");
    for (name, part) in [
        ("other", "its folder"),
        ("out", "beside the manifest"),
        ("link", "symbolic link"),
    ] {
        let error = library::get(Some(&folder), name).unwrap_err().to_string();
        assert!(error.contains(part), "{name}: {error}");
    }
    assert!(library::own(Some(&folder), "postgresql").is_err());
    for name in ["none", "../mine", "", "Mine", "a/b"] {
        let error = library::get(Some(&folder), name).unwrap_err();
        assert_eq!(error.code(), "not_found", "{name}");
    }
    let names = library::names(Some(&folder)).unwrap();
    let names: Vec<&str> = names.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "better-auth",
            "link",
            "mine",
            "other",
            "out",
            "postgresql",
            "postgresql"
        ]
    );
}

#[test]
fn those_that_come_with_the_sidecar_can_be_followed() {
    let names = library::names(None).unwrap();
    let all = names
        .iter()
        .map(|(name, _)| library::get(None, name).unwrap().0);
    let all = ordered(all.collect(), &State::default()).unwrap();
    for server in ["local", "url"] {
        let inputs = json!({"postgresql": {"server": server}, "better-auth": {"server": server}});
        let plan = planned(&all, inputs, &State::default()).unwrap();
        assert!(plan.name.starts_with("install:postgresql,better-auth"));
        assert_eq!(
            plan.secrets.contains(&"DATABASE_URL".to_owned()),
            server == "url"
        );
        let text = |path: &str| {
            let mut files = plan.work.files.iter();
            let file = files.find(|file| file.path == path).unwrap();
            (file.text.as_str(), file.executable)
        };
        assert_eq!(text(".weldr/postgres-database"), ("app\n", false));
        let (script, executable) = text(".weldr/bin/with-postgres");
        assert!(executable && !script.contains("${{"), "{script}");
    }
}

/// Somebody else has put the project back by now.
#[test]
fn what_was_given_up_writes_nothing_more() {
    let scene = Scene::new();
    let base = read(BASE).unwrap();
    let plan = planned(std::slice::from_ref(&base), json!({}), &State::default()).unwrap();
    let write = |given_up| plan.work.write(&scene.folder(), &AtomicBool::new(given_up));
    let error = write(true).unwrap_err();
    assert!(matches!(error, ApiError::DeadlineExceeded(_)), "{error}");
    let there = || scene.dir.path().join("app/base/conf").exists();
    assert!(!there());
    write(false).unwrap();
    assert!(there());
}

#[test]
fn a_file_is_replaced_all_at_once_and_what_is_too_large_is_not_read() {
    let scene = Scene::new();
    let folder = scene.folder();
    folder.write("a/b/c", b"one", true).unwrap();
    assert!(folder.is_executable("a/b/c"));
    folder.write("a/b/c", b"two", false).unwrap();
    assert!(!folder.is_executable("a/b/c"));
    // What only its owner may read stays so.
    let path = scene.dir.path().join("app/a/b/c");
    let mode = || std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions());
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    folder.write("a/b/c", b"two", true).unwrap();
    assert_eq!(mode() & 0o777, 0o700);
    folder.write("a/b/c", b"two", false).unwrap();
    assert_eq!(mode() & 0o777, 0o600);
    assert_eq!(
        folder.read("a/b/c", 3).unwrap(),
        Found::Text(b"two".to_vec())
    );
    assert_eq!(folder.read("a/b/c", 2).unwrap(), Found::Other);
    assert_eq!(folder.read("a/b", 2).unwrap(), Found::Other);
    assert_eq!(folder.read("a/x/y", 2).unwrap(), Found::Nothing);
    assert_eq!(folder.names("a/b").unwrap(), [".", "..", "c"]);
}

#[test]
fn the_example_of_the_documentation_is_one() {
    let text = include_str!("../../../../docs/integrations.md");
    let example = text.split("```yaml\n").nth(1).unwrap();
    let example = example.split("```").next().unwrap();
    let beside = |file: &str| match file {
        "run.sh" => Ok("#!/bin/sh\n".to_owned()),
        other => nothing_beside(other),
    };
    let manifest = Manifest::read("integration search", example, &beside).unwrap();
    let plan = planned(&[manifest], json!({}), &State::default()).unwrap();
    assert_eq!(plan.work.variables[0].value, "small");
    assert!(plan.secrets.is_empty());
}

/// A decoder of what strangers write is total.
#[test]
fn no_bytes_break_the_reader_of_manifests() {
    const ODD: &[u8] = b"\n :-{}[]&*'\"$|>#\0a";
    let mut state = 7_u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as usize
    };
    for _ in 0..3_000 {
        let mut bytes = BASE.as_bytes().to_vec();
        for _ in 0..=next() % 6 {
            if bytes.is_empty() {
                break;
            }
            let at = next() % bytes.len();
            match next() % 3 {
                0 => bytes[at] = ODD[next() % ODD.len()],
                1 => drop(bytes.remove(at)),
                _ => bytes.truncate(at),
            }
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Ok(manifest) = read(&text) {
            drop(planned(&[manifest], json!({}), &State::default()));
        }
    }
}
