"""What Dagster sees. Each file's assets, checks, jobs, schedules and sensors are found
by themselves: a new file needs no list to be edited."""
