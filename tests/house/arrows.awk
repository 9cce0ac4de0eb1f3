# Variable picture: not empty: draw it. Reads "room NAME...", one line a level, lowest first; "pair FILE FILE"; and of each symbol "U FILE SYMBOL" where it is
# used, "T FILE SYMBOL" (or another letter) where it is defined.
function room_of(file,  name) {
  name = file
  while (!(name in level) && index(name, "/") > 0) sub(/\/[^\/]*$/, "", name)
  if (!(name in level)) complain(file " is in no room: name its room in tests/house/arrows.sh")
  return name
}

function complain(sentence) {
  print sentence > "/dev/stderr"
  wrong = 1
}

# Files that are in no circle go, until none goes: whoever uses nobody, or is used by nobody, among those that are left.
function trim(  file, gone, arrow, ends) {
  do {
    gone = 0
    split("", users)
    split("", used)
    for (arrow in left) {
      split(arrow, ends, SUBSEP)
      users[ends[1]]
      used[ends[2]]
    }
    for (arrow in left) {
      split(arrow, ends, SUBSEP)
      if (ends[1] in used && ends[2] in users) continue
      delete left[arrow]
      gone = 1
    }
  } while (gone)
}

$1 == "room" {
  levels++
  for (i = 2; i <= NF; i++) {
    level[$i] = levels
    rooms[levels] = rooms[levels] " " $i
  }
}
$1 == "pair" {
  first[$3] = $2
  second[$2] = $3
}
$1 == "U" { uses[$2, $3] }
$1 ~ /^[TDBRCVGW]$/ {
  definer[$3] = $2
  files[$2]
}

END {
  for (use in uses) {
    split(use, part, SUBSEP)
    file = part[1]
    other = definer[part[2]]
    if (other == "" || other == file) continue
    arrows[file, other] = part[2]
  }
  for (file in files) count[room_of(file)]++
  for (arrow in arrows) {
    split(arrow, part, SUBSEP)
    from = room_of(part[1])
    to = room_of(part[2])
    if (from != to) {
      between[from, to]++
      if (level[to] >= level[from])
        complain(part[1] " uses " arrows[arrow] "() of " part[2] ": " from " is not above " to)
    }
    one = part[1] in first ? first[part[1]] : part[1]
    two = part[2] in first ? first[part[2]] : part[2]
    if (one != two) left[one, two]
  }
  for (file in second)
    if (!((file, second[file]) in arrows) || !((second[file], file) in arrows))
      complain(file " and " second[file] " do not use each other: they are no pair")
  trim()
  for (arrow in left) {
    split(arrow, part, SUBSEP)
    complain("in a circle: " part[1] " uses " part[2])
  }
  for (i = levels; picture != "" && i > 0; i--) {
    number = split(rooms[i], names, " ")
    for (j = 1; j <= number; j++) {
      name = names[j]
      if (!(name in count)) continue
      line = sprintf("%-20s %3d files", name, count[name])
      mark = " -->"
      for (k = i - 1; k > 0; k--) {
        lower_number = split(rooms[k], lower, " ")
        for (l = 1; l <= lower_number; l++) {
          if (!((name, lower[l]) in between)) continue
          line = line mark " " lower[l] " " between[name, lower[l]]
          mark = ","
        }
      }
      print line
    }
  }
  exit wrong
}
