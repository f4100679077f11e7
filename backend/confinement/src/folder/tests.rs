use super::*;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;

/// Users that no system has by name but as nobody's neighbours.
const USER: u32 = 65_531;
const OTHER: u32 = 65_532;

fn user() -> User {
    User { name: c"someone".into(), id: USER, group: USER }
}

/// A folder that goes with the test; `None`: who is not root gives nothing away.
struct Place(PathBuf);

impl Place {
    fn new(test: &str) -> Option<Place> {
        let path = std::env::temp_dir().join(format!("vonic-folder-{test}-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        let place = Place(path.canonicalize().unwrap());
        chown(&place.0, Some(0), Some(0)).ok().map(|()| place)
    }

    fn mode(&self, name: &str, mode: u32) {
        std::fs::set_permissions(self.0.join(name), PermissionsExt::from_mode(mode)).unwrap();
    }

    fn owner(&self, name: &str) -> u32 {
        self.0.join(name).symlink_metadata().unwrap().uid()
    }

    fn refused(&self, name: &str, why: &str) {
        let said = hand_over(&self.0.join(name), &user()).unwrap_err().to_string();
        assert!(said.contains(why), "{said}");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_folder_is_made_and_given_with_its_sockets() {
    let Some(place) = Place::new("made") else { return };
    let path = place.0.join("a/b");
    hand_over(&path, &user()).unwrap();
    assert_eq!((place.owner("a"), place.owner("a/b")), (0, USER));
    assert_eq!(path.metadata().unwrap().mode() & 0o022, 0);
    // It is the user's, whatever is in it.
    std::fs::write(path.join("file"), "").unwrap();
    hand_over(&path, &user()).unwrap();
    assert_eq!(place.owner("a/b/file"), 0);
    // Root had it again, as where a service manager makes it so.
    chown(&path, Some(0), Some(0)).unwrap();
    let _sockets = ["root.sock", "other.sock"].map(|name| UnixListener::bind(path.join(name)).unwrap());
    chown(path.join("other.sock"), Some(OTHER), None).unwrap();
    symlink("/etc", path.join("link")).unwrap();
    hand_over(&path, &user()).unwrap();
    let owners = ["", "root.sock", "other.sock", "file", "link"].map(|name| place.owner(&format!("a/b/{name}")));
    assert_eq!(owners, [USER, USER, OTHER, 0, 0]);
    assert_eq!(Path::new("/etc").metadata().unwrap().uid(), 0);
}

#[test]
fn what_others_have_or_could_have_put_there_is_not_given() {
    let Some(place) = Place::new("others") else { return };
    for name in ["theirs", "open", "root", "theirs/in", "shared", "shared/in"] {
        std::fs::create_dir(place.0.join(name)).unwrap();
    }
    chown(place.0.join("theirs"), Some(OTHER), Some(OTHER)).unwrap();
    place.mode("open", 0o775);
    place.mode("shared", 0o777);
    let owners = || ["theirs", "open", "root", "theirs/in", "shared/in"].map(|name| place.owner(name));
    let before = owners();
    place.refused("theirs", "belongs to user 65532: give it to 'someone' (chown someone /");
    place.refused("open", "others than its owner can write in");
    place.refused("theirs/in", "put another one there");
    place.refused("shared/in", "put another one there");
    // A link of somebody else's, at the end or on the way, leads nowhere; one of root's does.
    symlink(&place.0, place.0.join("way")).unwrap();
    std::os::unix::fs::lchown(place.0.join("way"), Some(OTHER), Some(OTHER)).unwrap();
    symlink("root", place.0.join("end")).unwrap();
    std::os::unix::fs::lchown(place.0.join("end"), Some(OTHER), Some(OTHER)).unwrap();
    place.refused("way/root", "'way' on the way is a link of user 65532");
    place.refused("end", "is a link of user 65532");
    symlink("loop", place.0.join("loop")).unwrap();
    place.refused("loop", "Too many levels");
    std::fs::write(place.0.join("file"), "").unwrap();
    place.refused("file", "Not a directory");
    assert_eq!(owners(), before);
    // What nobody can move in spite of a folder that is open to all, as /tmp is.
    place.mode("shared", 0o1777);
    symlink("root/../shared", place.0.join("roots")).unwrap();
    hand_over(&place.0.join("roots/in"), &user()).unwrap();
    assert_eq!(place.owner("shared/in"), USER);
}
