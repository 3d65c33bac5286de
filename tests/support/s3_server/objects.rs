//! The objects, and S3's operations on them. Every operation is done under one lock, so conditions hold.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use parking_lot::Mutex;
use s3s::dto::{
    DeleteObjectsInput, DeleteObjectsOutput, DeletedObject, ETag, ETagCondition, GetObjectInput,
    GetObjectOutput, HeadObjectInput, HeadObjectOutput, ListObjectsV2Input, ListObjectsV2Output,
    Object, PutObjectInput, PutObjectOutput, StreamingBlob, Timestamp,
};
use s3s::{Body, S3, S3Request, S3Response, S3Result, s3_error};

/// Largest object.
const MAX_BYTES: usize = 256 << 20;
const MAX_KEYS: usize = 1000;

struct Entry {
    bytes: Bytes,
    tag: String,
    modified: SystemTime,
}

/// Bucket and key.
type Name = (String, String);

pub(super) struct Objects {
    buckets: BTreeSet<String>,
    all: Mutex<BTreeMap<Name, Entry>>,
    dir: Option<PathBuf>,
    /// How far the server's clock is ahead, milliseconds.
    ahead_ms: AtomicU64,
}

impl Objects {
    /// The objects of a folder, or none.
    pub(super) fn load(buckets: Vec<String>, dir: Option<PathBuf>) -> Self {
        let mut all = BTreeMap::new();
        for bucket in &buckets {
            let Some(root) = dir.as_ref().map(|dir| dir.join(bucket)) else {
                continue;
            };
            std::fs::create_dir_all(&root).unwrap();
            load_below(&root, "", &mut |key, bytes| {
                all.insert((bucket.clone(), key), entry(bytes, SystemTime::now()));
            });
        }
        Self {
            buckets: buckets.into_iter().collect(),
            all: Mutex::new(all),
            dir,
            ahead_ms: AtomicU64::new(0),
        }
    }

    pub(super) fn service(self: Arc<Self>) -> Service {
        Service(self)
    }

    pub(super) fn keys(&self, bucket: &str) -> Vec<String> {
        let all = self.all.lock();
        all.keys()
            .filter(|name| name.0 == bucket)
            .map(|name| name.1.clone())
            .collect()
    }

    pub(super) fn bytes_of(&self, bucket: &str, prefix: &str) -> u64 {
        let all = self.all.lock();
        let of = all
            .iter()
            .filter(|((of, key), _)| of == bucket && key.starts_with(prefix));
        of.map(|(_, entry)| entry.bytes.len() as u64).sum()
    }

    pub(super) fn plant(&self, bucket: &str, key: &str, body: &[u8]) {
        let name = (bucket.to_owned(), key.to_owned());
        let new = entry(Bytes::copy_from_slice(body), self.now());
        self.all.lock().insert(name, new);
    }

    pub(super) fn pass(&self, time: Duration) {
        let ms = u64::try_from(time.as_millis()).unwrap();
        self.ahead_ms.fetch_add(ms, Ordering::Relaxed);
    }

    fn now(&self) -> SystemTime {
        SystemTime::now() + Duration::from_millis(self.ahead_ms.load(Ordering::Relaxed))
    }

    fn check(&self, bucket: &str) -> S3Result<()> {
        match self.buckets.contains(bucket) {
            true => Ok(()),
            false => Err(s3_error!(NoSuchBucket, "there is no such bucket")),
        }
    }

    fn keep(&self, name: &Name, bytes: Option<&Bytes>) {
        let Some(dir) = &self.dir else { return };
        let path = dir.join(&name.0).join(&name.1);
        match bytes {
            Some(bytes) => {
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, bytes).unwrap();
            }
            None => drop(std::fs::remove_file(path)),
        }
    }

    fn put(
        &self,
        name: Name,
        bytes: Bytes,
        if_match: Option<&ETagCondition>,
        if_none_match: Option<&ETagCondition>,
    ) -> S3Result<String> {
        let mut all = self.all.lock();
        let there = all.get(&name).map(|entry| entry.tag.clone());
        match (if_match, &there) {
            (Some(_), None) => return Err(s3_error!(NoSuchKey)),
            (Some(ETagCondition::ETag(wanted)), Some(tag)) if wanted.value() != tag => {
                return Err(s3_error!(PreconditionFailed));
            }
            _ => {}
        }
        if if_none_match.is_some() && there.is_some() {
            return Err(s3_error!(PreconditionFailed));
        }
        self.keep(&name, Some(&bytes));
        let new = entry(bytes, self.now());
        let tag = new.tag.clone();
        all.insert(name, new);
        Ok(tag)
    }
}

fn load_below(dir: &Path, base: &str, found: &mut dyn FnMut(String, Bytes)) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let key = format!("{base}{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            load_below(&entry.path(), &format!("{key}/"), found);
        } else {
            found(key, std::fs::read(entry.path()).unwrap().into());
        }
    }
}

fn entry(bytes: Bytes, modified: SystemTime) -> Entry {
    let half = |seed: u8| {
        let mut hasher = DefaultHasher::new();
        (seed, &bytes[..]).hash(&mut hasher);
        hasher.finish()
    };
    Entry {
        tag: format!("{:016x}{:016x}", half(0), half(1)),
        modified,
        bytes,
    }
}

/// The objects as s3s wants them.
pub(super) struct Service(Arc<Objects>);

#[async_trait::async_trait]
impl S3 for Service {
    async fn get_object(
        &self,
        request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        let input = request.input;
        self.0.check(&input.bucket)?;
        let all = self.0.all.lock();
        let entry = all
            .get(&(input.bucket, input.key))
            .ok_or_else(|| s3_error!(NoSuchKey))?;
        let len = entry.bytes.len() as u64;
        let (bytes, content_range) = match input.range {
            None => (entry.bytes.clone(), None),
            Some(range) => {
                let range = range.check(len)?;
                let header = format!("bytes {}-{}/{len}", range.start, range.end - 1);
                let part = range.start as usize..range.end as usize;
                (entry.bytes.slice(part), Some(header))
            }
        };
        Ok(S3Response::new(GetObjectOutput {
            content_length: Some(bytes.len() as i64),
            content_range,
            body: Some(StreamingBlob::from(Body::from(bytes))),
            e_tag: Some(ETag::Strong(entry.tag.clone())),
            last_modified: Some(Timestamp::from(entry.modified)),
            ..GetObjectOutput::default()
        }))
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let input = request.input;
        self.0.check(&input.bucket)?;
        let all = self.0.all.lock();
        let entry = all
            .get(&(input.bucket, input.key))
            .ok_or_else(|| s3_error!(NoSuchKey))?;
        Ok(S3Response::new(HeadObjectOutput {
            content_length: Some(entry.bytes.len() as i64),
            e_tag: Some(ETag::Strong(entry.tag.clone())),
            last_modified: Some(Timestamp::from(entry.modified)),
            ..HeadObjectOutput::default()
        }))
    }

    async fn put_object(
        &self,
        request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        let input = request.input;
        self.0.check(&input.bucket)?;
        let bytes = match input.body {
            None => Bytes::new(),
            Some(blob) => Body::from(blob)
                .store_all_limited(MAX_BYTES)
                .await
                .map_err(|error| s3_error!(IncompleteBody, "{error}"))?,
        };
        let tag = self.0.put(
            (input.bucket, input.key),
            bytes,
            input.if_match.as_ref(),
            input.if_none_match.as_ref(),
        )?;
        Ok(S3Response::new(PutObjectOutput {
            e_tag: Some(ETag::Strong(tag)),
            ..PutObjectOutput::default()
        }))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = request.input;
        self.0.check(&input.bucket)?;
        let prefix = input.prefix.clone().unwrap_or_default();
        let limit = input
            .max_keys
            .map_or(MAX_KEYS, |max| max as usize)
            .min(MAX_KEYS);
        let after = input
            .continuation_token
            .or(input.start_after)
            .unwrap_or_default();
        let from = (input.bucket.clone(), after.clone());
        let all = self.0.all.lock();
        let mut found = all
            .range((Bound::Included(from), Bound::Unbounded))
            .filter(|(name, _)| after.is_empty() || name.1 != after)
            .take_while(|(name, _)| name.0 == input.bucket)
            .filter(|(name, _)| name.1.starts_with(&prefix));
        let contents: Vec<Object> = found
            .by_ref()
            .take(limit)
            .map(|(name, entry)| Object {
                key: Some(name.1.clone()),
                size: Some(entry.bytes.len() as i64),
                last_modified: Some(Timestamp::from(entry.modified)),
                ..Object::default()
            })
            .collect();
        let is_truncated = found.next().is_some();
        let last = contents.last().and_then(|object| object.key.clone());
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(input.bucket.clone()),
            prefix: input.prefix,
            max_keys: Some(limit as i32),
            key_count: Some(contents.len() as i32),
            is_truncated: Some(is_truncated),
            next_continuation_token: last.filter(|_| is_truncated),
            contents: Some(contents),
            ..ListObjectsV2Output::default()
        }))
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let input = request.input;
        self.0.check(&input.bucket)?;
        if input.delete.objects.len() > MAX_KEYS {
            return Err(s3_error!(MalformedXML, "more than 1000 keys"));
        }
        let mut all = self.0.all.lock();
        let mut deleted = Vec::new();
        for object in input.delete.objects {
            let name = (input.bucket.clone(), object.key.clone());
            all.remove(&name);
            self.0.keep(&name, None);
            deleted.push(DeletedObject {
                key: Some(object.key),
                ..DeletedObject::default()
            });
        }
        Ok(S3Response::new(DeleteObjectsOutput {
            deleted: Some(deleted),
            ..DeleteObjectsOutput::default()
        }))
    }
}
