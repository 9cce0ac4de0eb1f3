/*
 * Signatures of requests, computed once more: see signing.h.
 */
#define _GNU_SOURCE
#include "signing.h"

#include "image/digest.h"

static void hmac(const void *key, size_t key_length, const void *text, size_t length, unsigned char out[32]) {
  unsigned char block[64] = {0}, pad[64];
  struct uffd_sha256 sha;
  CHECK(key_length <= sizeof(block));
  memcpy(block, key, key_length);
  for (unsigned i = 0; i < 64; i++) {
    pad[i] = block[i] ^ 0x36;
  }
  uffd_sha256_start(&sha);
  uffd_sha256_add(&sha, pad, 64);
  uffd_sha256_add(&sha, text, length);
  uffd_sha256_end(&sha, out);
  for (unsigned i = 0; i < 64; i++) {
    pad[i] = block[i] ^ 0x5c;
  }
  uffd_sha256_start(&sha);
  uffd_sha256_add(&sha, pad, 64);
  uffd_sha256_add(&sha, out, 32);
  uffd_sha256_end(&sha, out);
}

static void to_hex(const unsigned char digest[32], char text[65]) {
  for (unsigned i = 0; i < 32; i++) {
    snprintf(text + 2 * i, 3, "%02x", digest[i]);
  }
}

/* The value of a header of the request; "" if it is not there. */
static void header_of(const char *request, const char *name, size_t name_length, char *value, size_t room) {
  char line[80];
  snprintf(line, sizeof(line), "\n%.*s:", (int)name_length, name);
  const char *at = strcasestr(request, line);
  value[0] = '\0';
  if (at == NULL) return;
  at += strlen(line);
  while (*at == ' ') {
    at++;
  }
  snprintf(value, room, "%.*s", (int)strcspn(at, "\r"), at);
}

/* The hash of the request as it was to be signed. */
static void hash_request(const char *request, const char *headers, char hash[65]) {
  char text[4096], value[1024];
  unsigned char digest[32];
  struct uffd_sha256 sha;
  const char *path = strchr(request, ' ') + 1, *query = path + strcspn(path, " ?");
  if (*query == '?') query++;
  int used = snprintf(text, sizeof(text), "GET\n%.*s\n%.*s\n", (int)strcspn(path, " ?"), path, (int)strcspn(query, " "),
                      query);
  for (const char *at = headers; *at != '\0'; at += strspn(at, ";")) {
    size_t length = strcspn(at, ";");
    header_of(request, at, length, value, sizeof(value));
    used += snprintf(text + used, sizeof(text) - (size_t)used, "%.*s:%s\n", (int)length, at, value);
    at += length;
  }
  header_of(request, "x-amz-content-sha256", 20, value, sizeof(value));
  used += snprintf(text + used, sizeof(text) - (size_t)used, "\n%s\n%s", headers, value);
  CHECK((size_t)used < sizeof(text));
  uffd_sha256_start(&sha);
  uffd_sha256_add(&sha, text, (uint64_t)used);
  uffd_sha256_end(&sha, digest);
  to_hex(digest, hash);
}

bool signing_admits(const char *request, void *ctx) {
  const struct signing_user *known = ctx;
  char given[2048], date[64], token[256], hash[65], text[512], wanted[65];
  char user[64], day[16], region[32], headers[256], signature[65];
  unsigned char key[32];
  header_of(request, "Authorization", 13, given, sizeof(given));
  header_of(request, "X-Amz-Date", 10, date, sizeof(date));
  header_of(request, "x-amz-security-token", 20, token, sizeof(token));
  if (sscanf(given,
             "AWS4-HMAC-SHA256 Credential=%63[^/]/%15[^/]/%31[^/]/s3/aws4_request, SignedHeaders=%255[^,], "
             "Signature=%64s",
             user, day, region, headers, signature) != 5) {
    return false;
  }
  bool right = strcmp(user, known->name) == 0 && strcmp(token, known->token) == 0 &&
               strstr(headers, "x-amz-security-token") != NULL && strstr(headers, "x-amz-content-sha256") != NULL;
  hash_request(request, headers, hash);
  int length = snprintf(text, sizeof(text), "AWS4-HMAC-SHA256\n%s\n%s/%s/s3/aws4_request\n%s", date, day, region, hash);
  char first[80];
  snprintf(first, sizeof(first), "AWS4%s", known->secret);
  hmac(first, strlen(first), day, strlen(day), key);
  hmac(key, 32, region, strlen(region), key);
  hmac(key, 32, "s3", 2, key);
  hmac(key, 32, "aws4_request", 12, key);
  hmac(key, 32, text, (size_t)length, key);
  to_hex(key, wanted);
  return right && strcmp(region, known->region) == 0 && strcmp(wanted, signature) == 0;
}
