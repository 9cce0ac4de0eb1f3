/* uffd.png: a raster of indexed colours as a PNG file, for the runner's pictures. Compiled where libpng is found. */
#include <errno.h>
#include <lauxlib.h>
#include <png.h>
#include <stdio.h>
#include <string.h>

#include "runner/runner.h"

#define SIDE_MAX 32768

struct image {
  png_uint_32 width, height;
  const png_byte *pixels; /* an index a byte, rows from the top */
  png_color palette[256];
  int colors;
  char message[128]; /* why it failed */
};

static void keep_message(png_structp png, png_const_charp message) {
  struct image *image = png_get_error_ptr(png);
  snprintf(image->message, sizeof(image->message), "%s", message);
  longjmp(png_jmpbuf(png), 1);
}

static void ignore_warning(png_structp png, png_const_charp message) {
  (void)png, (void)message;
}

/* A function of its own, so that no variable lives across setjmp. */
static bool write_rows(png_structp png, png_infop info, FILE *file, const struct image *image) {
  if (setjmp(png_jmpbuf(png)) != 0) return false; /* NOLINT(cert-err52-cpp): libpng's way */
  png_init_io(png, file);
  png_set_IHDR(png, info, image->width, image->height, 8, PNG_COLOR_TYPE_PALETTE, PNG_INTERLACE_NONE,
               PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  png_set_PLTE(png, info, image->palette, image->colors);
  png_write_info(png, info);
  for (png_uint_32 row = 0; row < image->height; row++)
    png_write_row(png, image->pixels + (size_t)row * image->width);
  png_write_end(png, info);
  return true;
}

static bool write_image(FILE *file, struct image *image) {
  png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, image, keep_message, ignore_warning);
  png_infop info = png != NULL ? png_create_info_struct(png) : NULL;
  bool written = false;
  if (info == NULL) {
    snprintf(image->message, sizeof(image->message), "not enough memory");
  } else {
    written = write_rows(png, info, file, image);
  }
  png_destroy_write_struct(&png, &info);
  return written;
}

static png_uint_32 check_side(lua_State *L, int arg) {
  lua_Integer side = luaL_checkinteger(L, arg);
  luaL_argcheck(L, side > 0 && side <= SIDE_MAX, arg, "not a size of a picture");
  return (png_uint_32)side;
}

static void take_palette(lua_State *L, int arg, struct image *image) {
  size_t length = 0;
  const char *bytes = luaL_checklstring(L, arg, &length);
  luaL_argcheck(L, length > 0 && length % 3 == 0 && length <= sizeof(image->palette), arg, "1 to 256 times 3 bytes");
  memcpy(image->palette, bytes, length);
  image->colors = (int)(length / 3);
}

/* write(path, width, height, palette, pixels): 3 bytes a colour, 1 byte a pixel. True; or nil and a sentence. */
static int write_png(lua_State *L) {
  struct image image = {.width = check_side(L, 2), .height = check_side(L, 3)};
  const char *path = luaL_checkstring(L, 1);
  size_t length = 0;
  take_palette(L, 4, &image);
  image.pixels = (const png_byte *)luaL_checklstring(L, 5, &length);
  luaL_argcheck(L, length == (size_t)image.width * image.height, 5, "a byte for each pixel");
  FILE *file = fopen(path, "wbe");
  bool written = file != NULL && write_image(file, &image);
  if (file != NULL && fclose(file) != 0) written = false;
  if (written) {
    lua_pushboolean(L, 1);
    return 1;
  }
  const char *why = image.message[0] != '\0' ? image.message : strerror(errno);
  luaL_pushfail(L);
  lua_pushfstring(L, "Cannot write %s: %s.", path, why);
  return 2;
}

int luaopen_uffd_png(lua_State *L) {
  static const luaL_Reg functions[] = {{"write", write_png}, {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}
