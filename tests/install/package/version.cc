#include <uffd.h>

int main() {
  return uffd_version()[0] == '\0';
}
