/* A program of a user of libuffd-image: reads itself as an image. */
#include <stdio.h>
#include <string.h>

#include <uffd_image.h>

int main(int argc, char **argv) {
  const char *paths[] = {argv[0]};
  struct uffd_image_info info = UFFD_IMAGE_INFO_INIT;
  uffd_image *image = NULL;
  char magic[4];
  if (argc < 1 || uffd_image_open(paths, 1, NULL, &image) < 0 || uffd_image_info(image, &info) < 0 ||
      uffd_image_read(image, 0, magic, sizeof(magic)) < 0) {
    fprintf(stderr, "%s\n", uffd_errmsg());
    return 1;
  }
  uffd_image_close(image);
  return info.layers == 1 && memcmp(magic, "\177ELF", 4) == 0 ? 0 : 1;
}
