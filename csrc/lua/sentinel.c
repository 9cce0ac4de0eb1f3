/*
 * The sentinels: one userdata for each kind and Lua state, kept in the registry. Strings that look like them are
 * recognised too, so that a misspelt word does not become the contents of a page.
 */
#include "sentinel.h"

#include <ctype.h>
#include <string.h>

#define SENTINEL_TYPE "uffd.sentinel"

static const struct {
  const char *field; /* under uffd */
  const char *word;  /* the same answer as a string; NULL: it has none */
  const char *meant; /* what else is taken for a misspelling, in small letters, each between two spaces */
  uint32_t answer;
} sentinels[] = {
    {"ZERO", "zero", " zero zeros zeroes zeroed uffd.zero ", UFFD_ANSWER_ZERO},
    {"POISON", "poison", " poison poisons poisoned poisoning uffd.poison ", UFFD_ANSWER_POISON},
    {"LATER", "later", " later latter uffd.later ", UFFD_ANSWER_LATER},
    {"FILE", NULL, " uffd.file ", UFFD_ANSWER_FILE},
};
enum { SENTINELS = sizeof(sentinels) / sizeof(sentinels[0]), WORD_MAX = 16 };

static int tostring(lua_State *L) {
  const uint32_t *answer = luaL_checkudata(L, 1, SENTINEL_TYPE);
  for (size_t i = 0; i < SENTINELS; i++) {
    if (sentinels[i].answer == *answer) lua_pushfstring(L, "uffd.%s", sentinels[i].field);
  }
  return 1;
}

void uffd_lua_open_sentinels(lua_State *L) {
  luaL_newmetatable(L, SENTINEL_TYPE);
  lua_pushcfunction(L, tostring);
  lua_setfield(L, -2, "__tostring");
  for (size_t i = 0; i < SENTINELS; i++) {
    uint32_t *answer = lua_newuserdatauv(L, sizeof(*answer), 0);
    *answer = sentinels[i].answer;
    luaL_setmetatable(L, SENTINEL_TYPE);
    lua_pushvalue(L, -1);
    lua_rawseti(L, -3, sentinels[i].answer);
    lua_setfield(L, -3, sentinels[i].field);
  }
  lua_pop(L, 1);
}

void uffd_lua_push_sentinel(lua_State *L, uint32_t answer) {
  luaL_getmetatable(L, SENTINEL_TYPE);
  lua_rawgeti(L, -1, answer);
  lua_remove(L, -2);
}

bool uffd_lua_is_sentinel(lua_State *L, int index, uint32_t *answer) {
  const uint32_t *found = luaL_testudata(L, index, SENTINEL_TYPE);
  if (found != NULL) *answer = *found;
  return found != NULL;
}

bool uffd_lua_word_answer(const char *text, size_t length, uint32_t *answer) {
  for (size_t i = 0; i < SENTINELS; i++) {
    if (sentinels[i].word == NULL || strlen(sentinels[i].word) != length ||
        memcmp(sentinels[i].word, text, length) != 0)
      continue;
    *answer = sentinels[i].answer;
    return true;
  }
  return false;
}

const char *uffd_lua_meant_sentinel(const char *text, size_t length) {
  char word[WORD_MAX + 3] = " ";
  size_t used = 1;
  while (length > 0 && isspace((unsigned char)text[length - 1]))
    length--;
  while (length > 0 && isspace((unsigned char)*text))
    text++, length--;
  if (length == 0 || length > WORD_MAX) return NULL;
  for (size_t i = 0; i < length; i++) {
    if (!isalpha((unsigned char)text[i]) && text[i] != '.') return NULL;
    word[used++] = (char)tolower((unsigned char)text[i]);
  }
  word[used] = ' ';
  for (size_t i = 0; i < SENTINELS; i++) {
    if (strstr(sentinels[i].meant, word) != NULL) return sentinels[i].field;
  }
  return NULL;
}
