/*
 * Names of files that lie elsewhere, and what is needed to be let in. What is secret in a URI (a user, a password, a
 * query that is a signature) is never part of a name that messages, files or listings have.
 */
#ifndef UFFD_IMAGE_REMOTE_URI_H
#define UFFD_IMAGE_REMOTE_URI_H

#include "base/base.h"

enum uffd_scheme { UFFD_SCHEME_NONE, UFFD_SCHEME_HTTP, UFFD_SCHEME_S3, UFFD_SCHEME_NBD, UFFD_SCHEME_UNKNOWN };

/* NONE: it is a path. UNKNOWN: it looks like a URI ("word://"), of a kind that we do not know. */
enum uffd_scheme uffd_uri_scheme(const char *text);
/*
 * The name of a URI: without user, password, and (but for NBD, whose query names a socket) query. 0, or -ENAMETOOLONG.
 */
int uffd_uri_name(const char *uri, char *name, size_t room);
/* The URI of another file in the same place: the last part of the path is replaced, the query left out. */
int uffd_uri_beside(const char *uri, const char *file, char *beside, size_t room);
/* The URI with more at the end of its path. -EINVAL: it has a query. */
int uffd_uri_extend(const char *uri, const char *suffix, char *extended, size_t room);
/* The host and all before and after: an https:// or http:// URL without user, for s3://BUCKET/KEY too. */
int uffd_uri_url(const char *uri, const char *region, char *url, size_t room);

/*
 * Adds a store's id of a version to a URL, unless it names one already: 0, or -ENAMETOOLONG. What a version is called
 * is no secret.
 */
int uffd_uri_add_version(char *url, size_t room, const char *version);

struct uffd_credentials {
  char user[256];     /* or the access key */
  char password[256]; /* or the secret key */
  char token[4096];   /* of a session (S3), or of a bearer */
  char region[64];
  char certificate[1024]; /* paths of files in PEM, by which a server of TLS knows us */
  char key[1024];
};

/*
 * What lets us in: of the URI, of a file (lines of user=, password=, token=, region=, certificate=, key=), or of the
 * environment
 * (AWS_ACCESS_KEY_ID, ... for s3). 0, or -errno and a sentence that names the file and no secret.
 */
int uffd_credentials_read(const char *uri, const char *file, struct uffd_credentials *credentials);

#endif
