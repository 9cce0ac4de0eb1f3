/*
 * URIs and credentials. Nothing here prints what it was given.
 */
#include "image/remote/uri.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
  const char *prefix;
  enum uffd_scheme scheme;
} schemes[] = {
    {"http://", UFFD_SCHEME_HTTP},     {"https://", UFFD_SCHEME_HTTP}, {"s3://", UFFD_SCHEME_S3},
    {"nbd://", UFFD_SCHEME_NBD},       {"nbds://", UFFD_SCHEME_NBD},   {"nbd+unix://", UFFD_SCHEME_NBD},
    {"nbds+unix://", UFFD_SCHEME_NBD},
};

enum uffd_scheme uffd_uri_scheme(const char *text) {
  for (size_t i = 0; i < sizeof(schemes) / sizeof(schemes[0]); i++) {
    if (strncmp(text, schemes[i].prefix, strlen(schemes[i].prefix)) == 0) return schemes[i].scheme;
  }
  size_t word = strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+.-");
  return word > 0 && strncmp(text + word, "://", 3) == 0 ? UFFD_SCHEME_UNKNOWN : UFFD_SCHEME_NONE;
}

/* The parts of a URI: scheme://[user@]rest[?query] */
struct parts {
  size_t scheme; /* length, with :// */
  const char *user;
  size_t user_length;
  const char *rest;
  size_t rest_length;
  const char *query; /* with its ?; or "" */
};

static struct parts cut(const char *uri) {
  struct parts parts = {.query = ""};
  const char *start = strstr(uri, "://");
  start = start == NULL ? uri : start + 3;
  parts.scheme = (size_t)(start - uri);
  size_t authority = strcspn(start, "/?#");
  for (size_t i = authority; i > 0; i--) {
    if (start[i - 1] != '@') continue;
    parts.user = start;
    parts.user_length = i - 1;
    start += i;
    break;
  }
  parts.rest = start;
  parts.rest_length = strcspn(start, "?#");
  if (start[parts.rest_length] == '?') parts.query = start + parts.rest_length;
  return parts;
}

static int check_length(int length, size_t room) {
  return length >= 0 && (size_t)length < room ? 0 : fail(ENAMETOOLONG, "The URI of an image is too long.");
}

int uffd_uri_name(const char *uri, char *name, size_t room) {
  struct parts parts = cut(uri);
  const char *query = uffd_uri_scheme(uri) == UFFD_SCHEME_NBD ? parts.query : "";
  return check_length(
      snprintf(name, room, "%.*s%.*s%s", (int)parts.scheme, uri, (int)parts.rest_length, parts.rest, query), room);
}

int uffd_uri_beside(const char *uri, const char *file, char *beside, size_t room) {
  struct parts parts = cut(uri);
  size_t kept = (size_t)(parts.rest - uri), path = parts.rest_length;
  while (path > 0 && parts.rest[path - 1] != '/') {
    path--;
  }
  return check_length(snprintf(beside, room, "%.*s%s%s", (int)(kept + path), uri, path == 0 ? "/" : "", file), room);
}

int uffd_uri_extend(const char *uri, const char *suffix, char *extended, size_t room) {
  struct parts parts = cut(uri);
  if (parts.rest[parts.rest_length] != '\0') return -EINVAL;
  return check_length(snprintf(extended, room, "%s%s", uri, suffix), room);
}

/* A key is given as it is, and sent with what is not plain as %XX. */
static int encode(const char *key, size_t length, char *to, size_t room) {
  size_t used = 0;
  for (size_t i = 0; i < length; i++) {
    unsigned char c = (unsigned char)key[i];
    bool plain = isalnum(c) || strchr("-._~/", c) != NULL;
    int added = snprintf(to + used, room - used, plain ? "%c" : "%%%02X", c);
    if (added < 0 || (size_t)added >= room - used) return fail(ENAMETOOLONG, "The URI of an image is too long.");
    used += (size_t)added;
  }
  to[used] = '\0';
  return 0;
}

static int s3_url(const struct parts *parts, const char *region, char *url, size_t room) {
  const char *endpoint = getenv("AWS_ENDPOINT_URL_S3");
  if (endpoint == NULL) endpoint = getenv("AWS_ENDPOINT_URL");
  size_t bucket = strcspn(parts->rest, "/?#");
  char key[3072];
  if (bucket == 0 || bucket + 1 >= parts->rest_length) {
    return fail(EINVAL, "An image in a store is named s3://BUCKET/KEY.");
  }
  int result = encode(parts->rest + bucket + 1, parts->rest_length - bucket - 1, key, sizeof(key));
  if (result < 0) return result;
  if (endpoint == NULL) {
    return check_length(snprintf(url, room, "https://%.*s.s3.%s.amazonaws.com/%s%s", (int)bucket, parts->rest, region,
                                 key, parts->query),
                        room);
  }
  size_t length = strlen(endpoint);
  while (length > 0 && endpoint[length - 1] == '/') {
    length--;
  }
  return check_length(
      snprintf(url, room, "%.*s/%.*s/%s%s", (int)length, endpoint, (int)bucket, parts->rest, key, parts->query), room);
}

int uffd_uri_url(const char *uri, const char *region, char *url, size_t room) {
  struct parts parts = cut(uri);
  if (uffd_uri_scheme(uri) == UFFD_SCHEME_S3) return s3_url(&parts, region, url, room);
  return check_length(
      snprintf(url, room, "%.*s%.*s%s", (int)parts.scheme, uri, (int)parts.rest_length, parts.rest, parts.query), room);
}

int uffd_uri_add_version(char *url, size_t room, const char *version) {
  size_t used = strlen(url);
  const char *query = strchr(url, '?');
  if (query != NULL && strstr(query, "versionId=") != NULL) return 0;
  int added = snprintf(url + used, room - used, query == NULL ? "?versionId=" : "&versionId=");
  if (added < 0 || (size_t)added >= room - used) return fail(ENAMETOOLONG, "The URI of an image is too long.");
  used += (size_t)added;
  return encode(version, strlen(version), url + used, room - used);
}

/* Credentials */

static void keep(char *to, size_t room, const char *from, size_t length) {
  snprintf(to, room, "%.*s", (int)length, from);
}

static void keep_environment(char *to, size_t room, const char *name) {
  const char *value = getenv(name);
  if (value != NULL) keep(to, room, value, strlen(value));
}

static int hex(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  return isxdigit((unsigned char)c) ? tolower((unsigned char)c) - 'a' + 10 : -1;
}

static void keep_decoded(char *to, size_t room, const char *from, size_t length) {
  size_t used = 0;
  for (size_t i = 0; i < length && used + 1 < room; i++) {
    bool coded = from[i] == '%' && i + 2 < length + 0 && hex(from[i + 1]) >= 0 && hex(from[i + 2]) >= 0;
    to[used] = from[i];
    if (coded) to[used] = (char)(hex(from[i + 1]) * 16 + hex(from[i + 2]));
    if (coded) i += 2;
    used++;
  }
  to[used] = '\0';
}

static void take_user(const struct parts *parts, struct uffd_credentials *credentials) {
  if (parts->user == NULL) return;
  const char *colon = memchr(parts->user, ':', parts->user_length);
  size_t user = colon == NULL ? parts->user_length : (size_t)(colon - parts->user);
  keep_decoded(credentials->user, sizeof(credentials->user), parts->user, user);
  if (colon == NULL) return;
  keep_decoded(credentials->password, sizeof(credentials->password), colon + 1, parts->user_length - user - 1);
}

static int take_line(char *line, struct uffd_credentials *credentials) {
  const struct {
    const char *name;
    char *to;
    size_t room;
  } fields[] = {
      {"user", credentials->user, sizeof(credentials->user)},
      {"password", credentials->password, sizeof(credentials->password)},
      {"token", credentials->token, sizeof(credentials->token)},
      {"region", credentials->region, sizeof(credentials->region)},
      {"certificate", credentials->certificate, sizeof(credentials->certificate)},
      {"key", credentials->key, sizeof(credentials->key)},
  };
  line[strcspn(line, "\r\n")] = '\0';
  if (line[0] == '\0' || line[0] == '#') return 0;
  char *value = strchr(line, '=');
  if (value == NULL) return -EINVAL;
  *value++ = '\0';
  for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
    if (strcmp(line, fields[i].name) != 0) continue;
    keep(fields[i].to, fields[i].room, value, strlen(value));
    return 0;
  }
  return -EINVAL;
}

static int take_file(const char *path, struct uffd_credentials *credentials) {
  char line[4200];
  unsigned number = 0;
  int result = 0;
  FILE *file = fopen(path, "re");
  if (file == NULL) return fail(errno, "Cannot open the credentials %s: %s.", path, strerror(errno));
  while (result == 0 && fgets(line, sizeof(line), file) != NULL) {
    number++;
    result = take_line(line, credentials);
  }
  fclose(file);
  explicit_bzero(line, sizeof(line));
  if (result == 0) return 0;
  return fail(EINVAL, "%s: line %u is none of user=, password=, token=, region=, certificate= and key=.", path, number);
}

int uffd_credentials_read(const char *uri, const char *file, struct uffd_credentials *credentials) {
  struct parts parts = cut(uri);
  memset(credentials, 0, sizeof(*credentials));
  if (file == NULL) file = getenv("UFFD_CREDENTIALS");
  if (uffd_uri_scheme(uri) == UFFD_SCHEME_S3) {
    keep_environment(credentials->user, sizeof(credentials->user), "AWS_ACCESS_KEY_ID");
    keep_environment(credentials->password, sizeof(credentials->password), "AWS_SECRET_ACCESS_KEY");
    keep_environment(credentials->token, sizeof(credentials->token), "AWS_SESSION_TOKEN");
    keep_environment(credentials->region, sizeof(credentials->region), "AWS_DEFAULT_REGION");
    keep_environment(credentials->region, sizeof(credentials->region), "AWS_REGION");
  }
  int result = file == NULL || file[0] == '\0' ? 0 : take_file(file, credentials);
  if (result == 0) take_user(&parts, credentials);
  if (credentials->region[0] == '\0') keep(credentials->region, sizeof(credentials->region), "us-east-1", 9);
  return result;
}
