/* The command line: lua's options, and the commands of command.c. It is only parsed here; script.c runs it. */
#include <stdio.h>
#include <string.h>

#include "runner/runner.h"
#include "uffd.h"

void uffd_print_usage(void) {
  fputs("usage: " UFFD_PROGRAM " [options] [script [args]]\n"
        "       " UFFD_PROGRAM " command [args]\n"
        "Runs Lua programs with uffd built in. The options of lua:\n"
        "  -e stat         execute string 'stat'\n"
        "  -i              enter interactive mode after executing 'script'\n"
        "  -l mod          require library 'mod' into global 'mod'\n"
        "  -l g=mod        require library 'mod' into global 'g'\n"
        "  -v              show version information\n"
        "  -E              ignore environment variables\n"
        "  -W              turn warnings on\n"
        "  --              stop handling options\n"
        "  -               stop handling options and execute stdin\n"
        "and of uffd:\n"
        "  --info          tell what this kernel and user can do, and how to get the rest\n"
        "  --info=json     the same for programs\n"
        "  --check script  run 'script' up to its first serve, asking every policy for its first page\n"
        "  --version       show version information and stop\n"
        "  --help          show this and stop\n"
        "The commands, each with a --help of its own (a script of that name: ./NAME, or after --):\n"
        "  serve           answer the page faults of other processes\n"
        "  ctl             ask a pager that serves how it goes, tell it to drain\n"
        "  run             run a program, unchanged, whose memory a pager serves\n"
        "  offload         save and restore virtual machines of Cloud Hypervisor, whose memory a pager serves\n"
        "  trace           run a script and write a record of every fault that it answers\n"
        "  image           look into images, compare, convert, compact and verify them\n"
        "  ws              look into files of working sets: info, merge, diff, plot\n"
        "exit codes: 0 done, 1 the script failed, 2 wrong usage, 77 userfaultfd cannot be had (--info and serve)\n",
        stdout);
}

void uffd_print_version(void) {
  printf("%s %s on %s\n", UFFD_PROGRAM, uffd_version(), LUA_COPYRIGHT);
  fflush(stdout);
}

static bool refuse(const char *option, const char *why) {
  fprintf(stderr, "%s: '%s' %s\n", UFFD_PROGRAM, option, why);
  fprintf(stderr, "usage: %s [options] [script [args]]; %s --help tells more\n", UFFD_PROGRAM, UFFD_PROGRAM);
  return false;
}

/* A long option names a command, perhaps with a value. */
static bool parse_command(const char *option, struct uffd_options *options) {
  size_t length = strcspn(option, "=");
  const char *value = option[length] == '=' ? option + length + 1 : NULL;
  const struct uffd_command *command = uffd_find_command(option, length);
  if (command == NULL) return refuse(option, "is not an option");
  if (value != NULL && (command->value == NULL || strcmp(value, command->value) != 0))
    return refuse(option, "is not a value of this option");
  if (options->command != NULL) return refuse(option, "cannot stand beside another command");
  options->command = command;
  options->value = value;
  return true;
}

/* The options before the script; *index stops at what is not one. */
static bool parse_option(struct uffd_options *options, int *index) {
  char **argv = options->argv;
  const char *option = argv[*index];
  bool more = option[1] != '\0' && option[2] != '\0';
  switch (option[1]) {
  case '-':
    return parse_command(option, options);
  case 'e':
  case 'l':
    if (!more) {
      ++*index;
      if (*index >= options->argc || argv[*index][0] == '-') return refuse(option, "needs an argument");
    }
    if (option[1] == 'e') options->statements = true;
    return true;
  case 'h':
    return more ? refuse(option, "is not an option") : parse_command("--help", options);
  case 'i':
    options->interactive = true;
    options->version = true;
    break;
  case 'v':
    options->version = true;
    break;
  case 'E':
    options->no_environment = true;
    break;
  case 'W':
    break; /* uffd_run_options() */
  default:
    more = true;
  }
  return more ? refuse(option, "is not an option") : true;
}

/* Where there are no options any more: a command's word, or the script. */
static void find_script(struct uffd_options *options, int index, bool words) {
  options->script = index;
  if (!words || index >= options->argc || options->command != NULL) return;
  const char *word = options->argv[index];
  options->command = uffd_find_command(word, strlen(word));
}

bool uffd_parse_options(int argc, char **argv, struct uffd_options *options) {
  int index = 1;
  bool words = true;
  *options = (struct uffd_options){.argc = argc, .argv = argv};
  for (; index < argc && argv[index][0] == '-'; index++) {
    if (strcmp(argv[index], "--") == 0) {
      index++;
      words = false;
      break;
    }
    if (strcmp(argv[index], "-") == 0) {
      options->script_is_stdin = true;
      words = false;
      break;
    }
    if (!parse_option(options, &index)) return false;
  }
  find_script(options, index, words);
  if (options->command != NULL && options->command->script && options->script >= argc)
    return refuse(options->command->name, "needs a script");
  return true;
}
