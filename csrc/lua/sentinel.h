/* uffd.ZERO, uffd.POISON, uffd.LATER, uffd.FILE: answers of a policy that no contents of a page can be. */
#ifndef UFFD_LUA_SENTINEL_H
#define UFFD_LUA_SENTINEL_H

#include "util.h"

/* Makes the sentinels of this Lua state, as fields of the table on top of the stack. */
void uffd_lua_open_sentinels(lua_State *L);
/* Pushes the sentinel of an answer: UFFD_ANSWER_ZERO, POISON, LATER or FILE. */
void uffd_lua_push_sentinel(lua_State *L, uint32_t answer);
/* True for a sentinel, whose UFFD_ANSWER_* is stored then. */
bool uffd_lua_is_sentinel(lua_State *L, int index, uint32_t *answer);
/* True for a string that names an answer: "zero", "poison", "later". */
bool uffd_lua_word_answer(const char *text, size_t length, uint32_t *answer);
/* The name of the sentinel that the author of this string probably meant, as for "Poison" or "zeros"; else NULL. */
const char *uffd_lua_meant_sentinel(const char *text, size_t length);

#endif
