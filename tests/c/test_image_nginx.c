/* Images that nginx serves: ranges, TLS with a CA of our own, files that are replaced, compressed answers, a store. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/stat.h>

#include "imaging.h"
#include "remoting.h"
#include "servers.h"
#include "signing.h"

#define COUNT  UINT64_C(437)
#define LENGTH (COUNT * PAGE + 100)

static unsigned char *pages;
static struct server nginx;
static unsigned plain_port, tls_port;

static void make_certificates(void) {
  static const char *const commands[] = {
      "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=ours"
      " -keyout ca.key -out ca.pem 2> openssl.log",
      "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=others"
      " -keyout others.key -out others.pem 2> openssl.log",
      "openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=server"
      " -keyout server.key -out server.csr 2> openssl.log",
      "echo subjectAltName=IP:127.0.0.1 > names",
      "openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names"
      " -out server.pem 2> openssl.log",
  };
  for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
    CHECK_EQ(imaging_run(commands[i]), 0);
  }
}

/*
 * nginx in one process, in the test's directory, on ports that the test holds. locations: what the test adds to its
 * server.
 */
static void serve(const char *locations) {
  char config[4096];
  imaging_path("");
  if (imaging_run("command -v nginx > /dev/null && command -v openssl > /dev/null") != 0) {
    SKIP("nginx or openssl is not installed");
  }
  pages = imaging_pages(1, COUNT + 1);
  CHECK_EQ(mkdir(imaging_path("www"), 0700), 0);
  imaging_write(imaging_path("www/raw"), pages, LENGTH);
  make_certificates();
  plain_port = servers_port();
  tls_port = servers_port();
  snprintf(config, sizeof(config),
           "daemon off; master_process off; pid nginx.pid; error_log said;\n"
           "events { worker_connections 256; }\n"
           "http {\n"
           "  access_log access.log; default_type application/octet-stream;\n"
           "  client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4;\n"
           "  scgi_temp_path t5; gzip on; gzip_min_length 1; gzip_types *; gzip_proxied any;\n"
           "  server {\n"
           "    listen 127.0.0.1:%u reuseport; listen 127.0.0.1:%u ssl reuseport; root www;\n"
           "    ssl_certificate server.pem; ssl_certificate_key server.key;\n"
           "%s"
           "  }\n"
           "}\n",
           plain_port, tls_port, locations);
  imaging_write(imaging_path("nginx.conf"), config, strlen(config));
  servers_start(&nginx, "nginx -p $PWD/ -c nginx.conf -e said", "nginx.pid");
}

static const char *url(const char *scheme, const char *host, const char *name) {
  static char urls[4][256];
  static unsigned next;
  char *text = urls[next++ % 4];
  snprintf(text, sizeof(urls[0]), "%s://%s:%u/%s", scheme, host, scheme[4] == 's' ? tls_port : plain_port, name);
  return text;
}

static int try_with(const char *uri, const char *ca_file, uffd_image **image) {
  struct uffd_image_opts opts = UFFD_IMAGE_OPTS_INIT;
  opts.cache = "";
  opts.ca_file = ca_file;
  *image = NULL;
  int result = uffd_image_open(&uri, 1, &opts, image);
  if (result == -ENOSYS) SKIP("%s", uffd_errmsg());
  return result;
}

/* Each test ends with these. */
static void finish(uffd_image *image) {
  uffd_image_close(image);
  servers_end(&nginx);
  free(pages);
}

static void ranges(void) {
  serve("");
  uffd_image *image = remoting_open(url("http", "127.0.0.1", "raw"), "", 0);
  imaging_expect(image, pages, LENGTH);
  uffd_image_close(image);
  CHECK_EQ(imaging_run("grep -vE ' (206|404) ' access.log"), 1); /* nothing but ranges, and an index that is none */
  CHECK(remoting_try(url("http", "127.0.0.1", "none"), "", 0, &image) == -ENOENT);
  CHECK_SAYS("there is no such file");
  finish(NULL);
}

static void a_zstd_file(void) {
  serve("");
  struct zstd_file file = {.checksums = true};
  zstd_file_frames(&file, pages, LENGTH, 65536);
  zstd_file_finish(&file, imaging_path("www/zstd"));
  uffd_image *image = remoting_open(url("http", "127.0.0.1", "zstd"), "", 0);
  imaging_expect(image, pages, LENGTH);
  finish(image);
}

/* The certificate is of 127.0.0.1, and signed by our own CA. */
static void tls(void) {
  uffd_image *image;
  serve("");
  CHECK_OK(try_with(url("https", "127.0.0.1", "raw"), imaging_path("ca.pem"), &image));
  imaging_expect(image, pages, LENGTH);
  uffd_image_close(image);
  CHECK_ERR(try_with(url("https", "127.0.0.1", "raw"), imaging_path("others.pem"), &image), -EIO);
  CHECK_SAYS("the server's certificate is not believed");
  CHECK_SAYS("ca_file");
  CHECK_ERR(try_with(url("https", "127.0.0.1", "raw"), NULL, &image), -EIO);
  CHECK_SAYS("the server's certificate is not believed");
  CHECK_ERR(try_with(url("https", "localhost", "raw"), imaging_path("ca.pem"), &image), -EIO);
  CHECK_SAYS("the server's certificate is not believed");
  CHECK_SAYS("localhost");
  CHECK_ERR(try_with(url("https", "127.0.0.1", "raw"), imaging_path("nowhere.pem"), &image), -EIO);
  setenv("UFFD_CA_FILE", imaging_path("ca.pem"), 1);
  CHECK_OK(try_with(url("https", "127.0.0.1", "raw"), NULL, &image));
  finish(image);
}

/* The two are names of files; NULL: no certificate. */
static int try_as_client(const char *certificate, const char *key, uffd_image **image) {
  char text[8192] = "";
  struct uffd_image_opts opts = UFFD_IMAGE_OPTS_INIT;
  const char *uri = url("https", "127.0.0.1", "raw");
  opts.cache = "";
  opts.ca_file = imaging_path("ca.pem");
  opts.credentials = imaging_path("credentials");
  *image = NULL;
  if (certificate != NULL) {
    snprintf(text, sizeof(text), "certificate=%s\nkey=%s\n", imaging_path(certificate), imaging_path(key));
  }
  imaging_write(opts.credentials, text, strlen(text));
  int result = uffd_image_open(&uri, 1, &opts, image);
  if (result == -ENOSYS) SKIP("%s", uffd_errmsg());
  return result;
}

/* The server wants a certificate of ours: that of another CA, and none, do not let us in. */
static void a_client_with_a_certificate(void) {
  uffd_image *image;
  serve("    ssl_client_certificate ca.pem; ssl_verify_client on;\n");
  CHECK(try_as_client(NULL, NULL, &image) < 0);
  CHECK_SAYS("status 400");
  CHECK(try_as_client("others.pem", "others.key", &image) < 0);
  CHECK(try_as_client("nowhere.pem", "server.key", &image) < 0);
  CHECK_SAYS("our certificate");
  CHECK_OK(try_as_client("server.pem", "server.key", &image));
  imaging_expect(image, pages, LENGTH);
  finish(image);
}

/* The file is replaced underneath, by one of the same length: the ETag is another, and nothing of it is taken. */
static void a_file_that_is_replaced(void) {
  unsigned char page[PAGE], *others = imaging_pages(9000, COUNT + 1);
  const struct timespec long_ago[2] = {{1000000000, 0}, {1000000000, 0}};
  serve("");
  uffd_image *image = remoting_open(url("http", "127.0.0.1", "raw"), "", 0);
  CHECK_OK(uffd_image_read(image, 0, page, PAGE));
  imaging_write(imaging_path("www/next"), others, LENGTH);
  CHECK_EQ(utimensat(AT_FDCWD, imaging_path("www/next"), long_ago, 0), 0); /* nginx's ETag is of time and length */
  CHECK_EQ(rename(imaging_path("www/next"), imaging_path("www/raw")), 0);
  CHECK_ERR(uffd_image_read(image, 300 * PAGE, page, PAGE), -ESTALE);
  CHECK_SAYS("has changed since it was opened");
  CHECK_OK(uffd_image_read(image, 0, page, PAGE));
  CHECK(memcmp(page, pages, PAGE) == 0);
  while (imaging_run("grep -q ' 412 ' access.log") != 0) { /* nginx writes it after it has answered */
    check_pause();
  }
  uffd_image_close(image);
  image = remoting_open(url("http", "127.0.0.1", "raw"), "", 0);
  CHECK_OK(uffd_image_read(image, 300 * PAGE, page, PAGE));
  CHECK(memcmp(page, others + 300 * PAGE, PAGE) == 0);
  free(others);
  finish(image);
}

/* Bytes that are sent compressed are none of the file's, whatever length they have. */
static void compressed_answers(void) {
  uffd_image *image;
  serve("    location /packed { gzip_static always; }\n"
        "    location /encoded { add_header Content-Encoding gzip always; }\n");
  CHECK_EQ(imaging_run("cp www/raw www/packed && gzip -k www/packed && cp www/packed.gz www/encoded"), 0);
  CHECK_ERR(remoting_try(url("http", "127.0.0.1", "packed"), "", 0, &image), -EPROTO);
  CHECK_SAYS("status 200");
  CHECK_ERR(remoting_try(url("http", "127.0.0.1", "encoded"), "", 0, &image), -EPROTO);
  CHECK_SAYS("compressed");
  image = remoting_open(url("http", "127.0.0.1", "raw"), "", 0); /* gzip is on, and is not asked for */
  imaging_expect(image, pages, LENGTH);
  finish(image);
}

/*
 * A store: nginx sends the bytes, and asks a server of the test's about each request, which computes its signature once
 * more from the request's headers.
 */
static void a_store(void) {
  static struct signing_user user = {"AKEY", "topsecret", "SESSION", "moon-1"};
  unsigned char page[PAGE];
  char locations[512], endpoint[64];
  uffd_image *image;
  struct remoting *judge = remoting_start();
  pthread_mutex_lock(&judge->lock);
  judge->admits = signing_admits;
  judge->admits_ctx = &user;
  judge->only_judges = true;
  pthread_mutex_unlock(&judge->lock);
  snprintf(locations, sizeof(locations),
           "    location /bucket/ { auth_request /judge; }\n"
           "    location = /judge { internal; proxy_pass http://127.0.0.1:%u$request_uri;\n"
           "      proxy_http_version 1.1; proxy_set_header Host $http_host; proxy_pass_request_body off; }\n",
           judge->port);
  serve(locations);
  CHECK_EQ(mkdir(imaging_path("www/bucket"), 0700), 0);
  CHECK_EQ(rename(imaging_path("www/raw"), imaging_path("www/bucket/an image")), 0);
  snprintf(endpoint, sizeof(endpoint), "https://127.0.0.1:%u", tls_port);
  setenv("AWS_ENDPOINT_URL", endpoint, 1);
  setenv("AWS_REGION", "moon-1", 1);
  setenv("AWS_ACCESS_KEY_ID", "AKEY", 1);
  setenv("AWS_SECRET_ACCESS_KEY", "topsecret", 1);
  setenv("AWS_SESSION_TOKEN", "SESSION", 1);
  setenv("UFFD_CA_FILE", imaging_path("ca.pem"), 1);
  const char *uri = "s3://bucket/an image";
  image = remoting_open(uri, imaging_path("cache"), 0);
  imaging_expect(image, pages, LENGTH);
  struct uffd_image_layer layer = UFFD_IMAGE_LAYER_INIT;
  CHECK_OK(uffd_image_layer(image, 0, &layer));
  CHECK(strcmp(layer.path, uri) == 0);
  uffd_image_close(image);
  setenv("AWS_SECRET_ACCESS_KEY", "another", 1);
  CHECK_ERR(remoting_try(uri, "", 0, &image), -EACCES);
  CHECK(strstr(uffd_errmsg(), "another") == NULL && strstr(uffd_errmsg(), "AKEY") == NULL);
  CHECK(strstr(uffd_errmsg(), "SESSION") == NULL);
  setenv("AWS_SECRET_ACCESS_KEY", "topsecret", 1);
  image = remoting_open(uri, "", 0);
  pthread_mutex_lock(&judge->lock);
  user.secret = "changed"; /* on the server's side */
  pthread_mutex_unlock(&judge->lock);
  CHECK_ERR(uffd_image_read(image, 300 * PAGE, page, PAGE), -EACCES);
  setenv("AWS_SECRET_ACCESS_KEY", "changed", 1);
  CHECK_OK(uffd_image_read(image, 300 * PAGE, page, PAGE)); /* the environment is asked again */
  CHECK(memcmp(page, pages + 300 * PAGE, PAGE) == 0);
  uffd_image_close(image);
  CHECK_EQ(imaging_run("grep -rE 'topsecret|changed|SESSION|AKEY' cache access.log said"), 1);
  finish(NULL);
}

static const struct check_test tests[] = {
    TEST(ranges),
    TEST(a_zstd_file),
    TEST(tls),
    TEST(a_client_with_a_certificate),
    TEST(a_file_that_is_replaced),
    TEST(compressed_answers),
    TEST(a_store),
};
CHECK_MAIN(tests)
